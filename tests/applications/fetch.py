"""Fetches applications, puts uwsgi_waffle into a copy of each, and installs what they need.

python tests/applications/fetch.py [NAME...]
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.applications.catalogue import APPLICATIONS, ROOT, Application

#: What is written into an application factory: the two lines of the guide.
LINES = "    from {package} import settings\n    settings.init_app(app)\n\n"
#: What the servers and the extension need beside the application.
OURS = ("gunicorn", "pyuwsgi", "--editable", f"{ROOT}[admin]")


def fetch(application: Application) -> None:
    """Make both copies and the virtual environment of an application."""
    directory = application.directory
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    clone = directory / "clone"
    _run("git", "clone", "--quiet", application.repository, str(clone))
    _run("git", "-C", str(clone), "checkout", "--quiet", application.commit)
    for name in ("original", "integrated"):
        shutil.copytree(clone, directory / name, ignore=shutil.ignore_patterns(".git"))
    integrate(application)
    venv.create(directory / "venv", with_pip=True)
    install = (str(application.python), "-m", "pip", "install", "--quiet")
    # Where it says by itself what it needs, that is what its folder is installed for.
    _run(*install, *application.requirements, *OURS, directory=application.source(integrated=False))
    shutil.rmtree(clone)


def integrate(application: Application) -> None:
    """Add the module with the settings, and the two lines that set the extension up."""
    package = application.source(integrated=True).joinpath(*application.package.split("."))
    shutil.copy(
        Path(__file__).with_name(f"{application.name}_settings.py"), package / "settings.py"
    )
    factory = package / "__init__.py"
    lines = LINES.format(package=application.package)
    changed, count = re.subn(r"(?m)^    return app$", f"{lines}    return app", factory.read_text())
    if count != 1:
        message = f"{factory} has {count} lines `return app`, where 1 was expected."
        raise ValueError(message)
    factory.write_text(changed)


def _run(*command: str, directory: Path | None = None) -> None:
    subprocess.run(command, check=True, cwd=directory)


if __name__ == "__main__":
    for one in sys.argv[1:] or APPLICATIONS:
        fetch(APPLICATIONS[one])
