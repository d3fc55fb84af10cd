"""The `flask` program: finds the commands by itself, and what they leave alone."""

from __future__ import annotations

import os
import pty
import subprocess
from pathlib import Path

import pytest
from flask import Flask

from tests.conftest import Apps, state_of
from tests.support.command_line import (
    flask_command,
    flask_environment,
    flask_waffle,
    run_in_process,
)
from uwsgi_waffle.cli import cli

DECLARED = (
    "from uwsgi_waffle import WaffleConf\napp.config['WAFFLE_CONFS'] = {'A': {'default': 0}}\n"
)


def _write_app(directory: Path, body: str) -> str:
    """Write an application of a user, and return its name for `--app`."""
    path = directory / "waffle_shop.py"
    path.write_text(f"from flask import Flask\napp = Flask(__name__)\n{body}")
    return f"{path}:app"


def test_commands_are_found_without_code_in_the_application(tmp_path: Path) -> None:
    app = _write_app(tmp_path, f"{DECLARED}WaffleConf(app)\n")
    environment = {"WAFFLE_X": "", "HOME": str(tmp_path)}
    done = flask_waffle(environment, "set", "A=5", app=app)
    assert done.status == 0, done.errors
    assert flask_waffle(environment, "get", "A", app=app).output == "5\n"


def test_an_application_without_settings_is_told_what_to_add(tmp_path: Path) -> None:
    done = flask_waffle({}, "list", app=_write_app(tmp_path, ""))
    assert done.status == 1
    assert done.errors.count("\n") == 1
    assert "has no WaffleConf" in done.errors


def test_a_configuration_that_cannot_work_is_told_in_one_line(tmp_path: Path) -> None:
    body = f"{DECLARED}app.config['WAFFLE_POLL_SECONDS'] = 0\nWaffleConf(app)\n"
    done = flask_waffle({}, "list", app=_write_app(tmp_path, body))
    assert done.status == 1
    assert done.errors.count("\n") == 1
    assert "WAFFLE_POLL_SECONDS = 0" in done.errors


@pytest.mark.parametrize("command", ["set", "list"])
def test_a_database_that_is_not_there_is_told_in_one_line(tmp_path: Path, command: str) -> None:
    environment = {
        "WAFFLE_DATABASE_URI": "postgresql+psycopg://who:s3cret@127.0.0.1:1/nowhere",
        "WAFFLE_SNAPSHOT_PATH": str(tmp_path / "here" / "snapshot"),
    }
    done = flask_waffle(environment, command, *(["S000=1"] if command == "set" else []))
    assert done.status == 1
    assert done.errors.count("\n") == 1
    assert "postgresql+psycopg://who:***@127.0.0.1:1/nowhere cannot be used" in done.errors
    assert "s3cret" not in done.errors


def test_colours_are_for_terminals_only(tmp_path: Path) -> None:
    environment = {
        "WAFFLE_DATABASE_URI": f"sqlite:///{tmp_path}/waffle.db",
        "WAFFLE_SNAPSHOT_PATH": str(tmp_path / "here" / "snapshot"),
        "TERM": "xterm",
    }
    assert "\x1b" not in flask_waffle(environment, "list").output
    assert "\x1b[1m" in _on_terminal(environment, "list")


def _on_terminal(environment: dict[str, str], *arguments: str) -> str:
    """Return what a command prints on a terminal."""
    ours, theirs = pty.openpty()
    try:
        subprocess.run(
            flask_command("tests.apps.whole_numbers:app", *arguments),
            env=flask_environment(environment),
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
            check=True,
            timeout=60,
        )
        return os.read(ours, 65536).decode()
    finally:
        os.close(theirs)
        os.close(ours)


def test_a_command_neither_registers_itself_nor_listens(apps: Apps) -> None:
    app, _ = apps(
        WAFFLE_CONFS={"A": {"default": 0}},
        WAFFLE_MULTIPROC=True,
        WAFFLE_REDIS_URL="redis://127.0.0.1:1",
    )
    for command in (
        ["list"],
        ["status"],
        ["set", "A=1", "--timeout", "0"],
        ["doctor"],
        ["history"],
    ):
        run_in_process(app, *command)
    state = state_of(app)
    assert state.serving.current.revision == 1
    assert state.host.slots.living() == []
    assert state.environment is None


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_each_command_explains_itself_within_80_columns(name: str) -> None:
    done = run_in_process(Flask("any"), name, "--help")
    assert done.status == 0
    assert max(map(len, done.output.splitlines())) <= 80


def test_the_list_of_commands_cuts_no_explanation_short() -> None:
    done = run_in_process(Flask("any"), "--help")
    assert "..." not in done.output.split("Commands:")[1]
