"""The `flask` program as an operator runs it, in a process of its own."""

from __future__ import annotations

import functools
import os
import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from flask import Flask

from tests.support.places import ROOT
from tests.support.quick_start import Finished, run
from uwsgi_waffle.cli import cli

#: A command that has not ended by then does not do so any more.
COMMAND_SECONDS = 60.0


def run_in_process(app: Flask, *arguments: str, typed: str | bytes = "") -> Finished:
    """Run `flask waffle ...` of an application here, as its test runner does."""
    result = app.test_cli_runner().invoke(cli, list(arguments), input=typed)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Finished(result.exit_code, result.stdout, result.stderr)


def flask_command(app: str, *arguments: str) -> list[str]:
    """Return the command `flask --app APP waffle ...`."""
    return [sys.executable, "-m", "flask", "--app", app, "waffle", *arguments]


def flask_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which Flask finds this package's commands, installed or not."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("WAFFLE_", "FLASK_"))}
    path = os.pathsep.join((str(ROOT), str(_metadata_directory())))
    return {**inherited, "PYTHONPATH": path, "COLUMNS": "80", **environment}


def flask_waffle(
    environment: Mapping[str, str],
    *arguments: str,
    app: str = "tests.apps.whole_numbers:app",
    typed: str = "",
) -> Finished:
    """Run a command to its end, *typed* on its standard input."""
    return run(
        flask_command(app, *arguments),
        environment=flask_environment(environment),
        typed=typed,
        seconds=COMMAND_SECONDS,
    )


@functools.cache
def _metadata_directory() -> Path:
    """Return a directory with the entry points of `pyproject.toml`, as an installation has them."""
    project = (ROOT / "pyproject.toml").read_text()
    section = re.search(r'(?ms)^\[project\.entry-points\."flask\.commands"\]\n(.*?)^\[', project)
    assert section is not None, "pyproject.toml has no commands for Flask"
    directory = Path(_keep(tempfile.TemporaryDirectory(prefix="waffle-commands-")))
    metadata = directory / "uwsgi_waffle-0.1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: uwsgi-waffle\nVersion: 0.1.0\n"
    )
    (metadata / "entry_points.txt").write_text("[flask.commands]\n" + section[1].replace('"', ""))
    return directory


_kept: list[tempfile.TemporaryDirectory[str]] = []


def _keep(directory: tempfile.TemporaryDirectory[str]) -> str:
    """Return the directory's path; it is removed when Python ends."""
    _kept.append(directory)
    return directory.name
