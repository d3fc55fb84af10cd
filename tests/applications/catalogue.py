"""Which applications there are, where they come from, and what is written into them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.support import DatabaseKind

__all__ = ["APPLICATIONS", "Application"]

ROOT = Path(__file__).parents[2]
#: Where `fetch.py` puts them; nothing of it is under version control.
PLACE = ROOT / "build" / "applications"


@dataclass(frozen=True)
class Application:
    """One application.

    :ivar commit: the commit that was tried
    :ivar folder: where it is in its repository
    :ivar requirements: what it needs from the package index; "." for what it says itself
    :ivar package: the package with its factory, which gets a module ``settings``, from
        ``NAME_settings.py``
    :ivar own_tests: how it runs its own tests, as arguments of Python
    :ivar short: arguments more where that is no soak and all of them take too long
    :ivar app: what ``flask --app`` loads
    :ivar served: what servers load
    :ivar database: of its tests and its servers
    """

    name: str
    repository: str
    commit: str
    folder: str
    requirements: tuple[str, ...]
    package: str
    own_tests: tuple[str, ...]
    app: str
    served: str
    short: tuple[str, ...] = ()
    database: DatabaseKind = "sqlite"

    @property
    def directory(self) -> Path:
        """Where its copies and its virtual environment are."""
        return PLACE / self.name

    @property
    def python(self) -> Path:
        """Python with what it needs."""
        return self.directory / "venv" / "bin" / "python"

    def source(self, *, integrated: bool) -> Path:
        """Return the folder of a copy, without or with the extension."""
        return self.directory / ("integrated" if integrated else "original") / self.folder


APPLICATIONS = {
    application.name: application
    for application in (
        Application(
            name="flaskr",
            repository="https://github.com/pallets/flask",
            commit="22d924701a6ae2e4cd01e9a15bbaf3946094af65",  # 3.1.3
            folder="examples/tutorial",
            requirements=("pytest",),
            package="flaskr",
            own_tests=("-m", "pytest", "-q", "-p", "no:cacheprovider"),
            app="flaskr",
            served="flaskr:create_app()",
        ),
        Application(
            name="microblog",
            repository="https://github.com/miguelgrinberg/microblog",
            commit="a975ef64864354867c88e0ed3a17ba7d17dca752",
            folder=".",
            requirements=(
                "elasticsearch",
                "email-validator",
                "flask-babel",
                "flask-httpauth",
                "flask-login",
                "flask-mail",
                "flask-migrate",
                "flask-moment",
                "flask-sqlalchemy",
                "flask-wtf",
                "langdetect",
                "pyjwt",
                "python-dotenv",
                "requests",
                "rq",
            ),
            package="app",
            own_tests=("-m", "unittest", "tests"),
            app="microblog",
            served="microblog:app",
        ),
        Application(
            name="zou",
            repository="https://github.com/cgwire/zou",
            commit="4bf77e6da49b9d06521aaead52927daf6449a99d",  # 1.0.67
            folder=".",
            requirements=(".[test]",),
            package="zou.app",
            own_tests=("-m", "pytest", "-q", "-p", "no:cacheprovider"),
            short=("tests/app", "tests/models", "tests/blueprints/auth", "tests/blueprints/crud"),
            app="zou.app",
            served="zou.app:create_app()",
            database="postgresql",
        ),
    )
}
