"""Applications that others wrote: their own tests, and a setting that changes what they do.

``make applications`` fetches them and runs this.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.cookiejar import CookieJar
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import HTTPCookieProcessor, OpenerDirector, build_opener

import pytest
import sqlalchemy as sa

from tests.applications.catalogue import APPLICATIONS, Application
from tests.support import RedisServer, free_port, fresh_database, request, wait_until
from tests.support.processes import ServerProcess
from tests.support.programs import output_of_command
from tests.support.soak import is_soak, times

WORKERS = 4
#: Enough requests for each worker to have answered.
ASKED = 24
TESTS_SECONDS = times(900, 5400)
#: With all that such an application imports.
LOAD_SECONDS = 80.0
PASSWORD = "passw0rd"  # noqa: S105  # of the users that the test makes
SERVERS = ("uwsgi", "gunicorn")


@pytest.fixture(params=sorted(APPLICATIONS))
def application(request: pytest.FixtureRequest) -> Application:
    """Give an application, if it has been fetched."""
    found = APPLICATIONS[request.param]
    fetched = found.python.exists() and found.source(integrated=True).exists()
    if not fetched:  # in CI neither: it may have no way to other people's servers
        pytest.skip(f"{found.name} of {found.repository} is not fetched: make applications")
    return found


def environment(**more: str) -> dict[str, str]:
    """Return an environment without what belongs to the tests at hand."""
    left_out = ("WAFFLE_", "FLASK_", "PYTEST_", "PYTHONPATH", "COV_", "VIRTUAL_ENV")
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(left_out)}
    return {**inherited, **more}


def services(database_uri: str, redis: RedisServer) -> dict[str, str]:
    """Return where an application finds its database and its Redis, by the names of each."""
    found = {"DATABASE_URL": database_uri, "REDIS_URL": redis.url}
    url = sa.make_url(database_uri)
    if url.host is None:
        return {**found, "FLASK_DATABASE": url.database or ""}
    return {
        **found,
        "DB_HOST": url.host,
        "DB_PORT": str(url.port),
        "DB_USERNAME": url.username or "",
        "DB_PASSWORD": url.password or "",
        "DB_DATABASE": url.database or "",
        "KV_HOST": "127.0.0.1",
        "KV_PORT": str(redis.port),
        "SECRET_KEY": secrets.token_hex(),
        # Such checks ask name servers.
        "MAIL_CHECK_DELIVERABILITY": "false",
        "MAIL_ENABLED": "false",
    }


@pytest.fixture
def database_uri(application: Application) -> Iterator[str]:
    """Give an empty database of the kind that the application uses."""
    with fresh_database(application.database) as uri:
        yield uri


@pytest.mark.timeout(2 * TESTS_SECONDS)
@pytest.mark.parametrize("integrated", [False, True], ids=["as-it-is", "integrated"])
def test_its_own_tests_pass(
    application: Application, database_uri: str, redis_server: RedisServer, *, integrated: bool
) -> None:
    # A SQLite file they choose themselves.
    needed = services(database_uri, redis_server) if application.database != "sqlite" else {}
    which = () if is_soak() else application.short
    done = subprocess.run(
        [str(application.python), *application.own_tests, *which],
        check=False,
        cwd=application.source(integrated=integrated),
        env=environment(**needed),
        capture_output=True,
        text=True,
        timeout=TESTS_SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "waffle: " not in done.stdout + done.stderr


@dataclass
class Site:
    """An application that is served, on a database and a Redis of its own."""

    application: Application
    directory: Path
    database_uri: str
    redis: RedisServer
    port: int

    @property
    def environment(self) -> dict[str, str]:
        """What its server and its commands are given."""
        return environment(
            **services(self.database_uri, self.redis),
            FLASK_WAFFLE_REDIS_URL=self.redis.url,
            FLASK_WAFFLE_SNAPSHOT_PATH=f"{self.directory}/snapshot",
            LOG_TO_STDOUT="1",
        )

    def run(self, *arguments: str) -> str:
        """Return what its Python prints; it must succeed."""
        return output_of_command(
            [str(self.application.python), *arguments],
            directory=self.application.source(integrated=True),
            environment=self.environment,
        )

    def flask(self, *arguments: str) -> str:
        """Return what a command of Flask prints."""
        return self.run("-m", "flask", "--app", self.application.app, *arguments)

    def command(self, server: str) -> list[str]:
        """Return the command that serves it by four workers; in uWSGI there is a mule, too."""
        binaries = self.application.python.parent
        address = f"127.0.0.1:{self.port}"
        if server == "gunicorn":
            how = ("--preload", "--workers", str(WORKERS), "--bind", address)
            return [
                str(self.application.python),
                "-m",
                "gunicorn",
                *how,
                self.application.served,
            ]
        options = (
            *("--http-socket", address, "--master", "--need-app", "--processes", str(WORKERS)),
            *(
                "--module",
                self.application.served,
                "--shared-import",
                "uwsgi_waffle.boot",
                "--mule=waffle",
            ),
            *("--virtualenv", str(binaries.parent), "--pythonpath", ".", "--die-on-term"),
            *("--binary-path", str(self.application.python)),
        )
        return [str(binaries / "uwsgi"), *options]

    def visitor(self) -> OpenerDirector:
        """Return a browser of sorts, with cookies."""
        return build_opener(HTTPCookieProcessor(CookieJar()))

    def open(self, visitor: OpenerDirector, path: str, **form: str) -> tuple[int, str]:
        """Return status and text of a page, after a form was sent with its CSRF token."""
        url = f"http://127.0.0.1:{self.port}{path}"
        try:
            with visitor.open(url) as answer:
                text = answer.read().decode()
            if form:
                token = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', text)
                sent = {**form, **({"csrf_token": token[1]} if token else {})}
                with visitor.open(url, urlencode(sent).encode()) as answer:
                    text = answer.read().decode()
        except HTTPError as error:
            with error:
                return error.code, error.read().decode()
        return 200, text

    def from_each(self, ask: Callable[[], object]) -> set[object]:
        """Return the different answers of the workers."""
        return {ask() for _ in range(ASKED)}


@contextlib.contextmanager
def served(site: Site, server: str) -> Iterator[None]:
    """Serve a site, and end its server."""
    log = site.directory / "server.log"
    process = ServerProcess(
        site.command(server),
        log_path=log,
        environment=site.environment,
        directory=site.application.source(integrated=True),
    )

    def answers() -> bool:
        assert process.running, "the server died at its start"
        return request("GET", "/", port=site.port).status < 400

    try:
        wait_until(answers, LOAD_SECONDS, f"{server} serves")
        yield
        assert "Traceback" not in log.read_text()
    except BaseException:
        print(log.read_text())  # noqa: T201  pytest shows it
        raise
    finally:
        process.stop()


def sign_in(site: Site, name: str) -> OpenerDirector:
    """Return a visitor who has sent the form of the login page."""
    visitor = site.visitor()
    site.open(visitor, "/auth/login", username=name, password=PASSWORD)
    return visitor


def sign_in_to_zou(site: Site, name: str) -> OpenerDirector:
    """Return a visitor with a token, as the programs have that use Zou."""
    person = {"email": f"{name}@example.com", "password": PASSWORD}
    got = request("POST", "/auth/login", port=site.port, json=person)
    assert got.status == 200, got.text
    visitor = site.visitor()
    visitor.addheaders.append(("Authorization", f"Bearer {got.json()['access_token']}"))
    return visitor


def check_flaskr(site: Site) -> None:
    """Registration is closed, in each worker."""
    page = "/auth/register"
    for name in ("admin", "guest"):
        assert site.open(site.visitor(), page, username=name, password=PASSWORD)[0] == 200
    assert site.from_each(lambda: site.open(site.visitor(), page)[0]) == {200}
    set_everywhere(site, "REGISTRATION_OPEN=false")
    assert site.from_each(lambda: site.open(site.visitor(), page)[0]) == {403}


def check_microblog(site: Site) -> None:
    """A page of posts has as many as the setting says, in each worker."""
    visitor = sign_in(site, "guest")

    def posts() -> int:
        return site.open(visitor, "/explore")[1].count('id="post')

    assert site.from_each(posts) == {25}
    set_everywhere(site, "POSTS_PER_PAGE=3")
    assert site.from_each(posts) == {3}


def check_zou(site: Site) -> None:
    """A page of records has as many as the setting says, in each worker."""
    visitor = sign_in_to_zou(site, "admin")

    def records() -> int:
        return len(json.loads(site.open(visitor, "/data/departments?page=1")[1])["data"])

    assert site.from_each(records) == {100}
    set_everywhere(site, "NB_RECORDS_PER_PAGE=3")
    assert site.from_each(records) == {3}


def set_everywhere(site: Site, change: str) -> None:
    """Change a setting by the command, which says that each process serves it."""
    printed = site.flask("waffle", "set", change)
    found = re.search(r"revision 1: (\d+) of (\d+) processes on 1 host", printed)
    assert found is not None, printed
    assert found[1] == found[2]
    assert int(found[1]) >= 1


#: What the database of microblog gets.
MICROBLOG = """
from microblog import app, db, User, Post
with app.app_context():
    db.create_all()
    for name in ("admin", "guest"):
        user = User(username=name, email=f"{name}@example.org")
        user.set_password("passw0rd")
        db.session.add(user)
    for n in range(30):
        db.session.add(Post(body=str(n), author=user))
    db.session.commit()
"""
#: What that of Zou gets.
ZOU = """
from zou.cli import _get_app
with _get_app().app_context():
    from zou.app.models.department import Department
    from zou.app.services import persons_service
    from zou.app.utils import auth
    for name, role in (("admin", "admin"), ("guest", "user")):
        password = auth.encrypt_password("passw0rd")
        persons_service.create_person(f"{name}@example.com", password, name, name, role=role)
    for number in range(120):
        Department.create(name=str(number), color="#000000")
"""


@dataclass(frozen=True)
class Trial:
    """How an application is tried.

    :ivar prepare: arguments of Python, for each program that prepares its database
    :ivar check: that a setting changes what it does
    :ivar sign_in: as a user of a name
    """

    prepare: tuple[tuple[str, ...], ...]
    check: Callable[[Site], None]
    sign_in: Callable[[Site, str], OpenerDirector] = sign_in


TRIALS = {
    "flaskr": Trial((("-m", "flask", "--app", "flaskr", "init-db"),), check_flaskr),
    "microblog": Trial((("-c", MICROBLOG),), check_microblog),
    "zou": Trial((("-m", "zou.cli", "init-db"), ("-c", ZOU)), check_zou, sign_in_to_zou),
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("server", SERVERS)
def test_a_setting_changes_what_it_does(
    application: Application,
    server: str,
    tmp_path: Path,
    database_uri: str,
    redis_server: RedisServer,
) -> None:
    site = Site(application, tmp_path, database_uri, redis_server, free_port())
    trial = TRIALS[application.name]
    for arguments in trial.prepare:
        site.run(*arguments)
    with served(site, server):
        trial.check(site)

        assert site.open(site.visitor(), "/waffle/")[0] in {401, 403}
        for name, status in (("guest", 403), ("admin", 200)):
            found, text = site.open(trial.sign_in(site, name), "/waffle/")
            assert found == status, name
            assert ("History" in text) == (status == 200)
