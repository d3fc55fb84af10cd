"""Any arguments: done, refused in a line, or a usage error; never a traceback."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flask import Flask
from hypothesis import example, given
from hypothesis import strategies as st

from tests.conftest import Apps
from tests.support.command_line import run_in_process
from tests.support.declarations import Bounds
from tests.support.fuzzing import fuzzed, json_values
from uwsgi_waffle import WaffleConf

#: Those that end by themselves, each with what it may need.
COMMANDS = {
    "list": [],
    "get": ["LO"],
    "set": ["--no-wait", "LO=3"],
    "reset": ["--no-wait", "LO"],
    "history": ["--limit", "3"],
    "rollback": ["--no-wait", "--yes", "0"],
    "export": [],
    "import": ["--no-wait", "-"],
    "doctor": [],
    "forget": ["web"],
    "prune": ["--keep", "3"],
    "resync": [],
    "init-db": [],
    "rotate-keys": [],
}
OPTIONS = ["--json", "--reveal", "--dry-run", "--expect", "--comment", "--actor", "--all"]
OPTIONS += ["--limit", "--keep", "--older-than", "--from-stdin", "--help", "--yes", "--"]
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=10)
values = st.builds("{}={}".format, st.sampled_from(["LO", "HI", "NO", ""]), texts)
numbers = (st.integers(-5, 5) | st.integers(-(10**30), 10**30)).map(str)
arguments = st.lists(st.sampled_from(OPTIONS) | values | numbers | texts, max_size=4)

Made = tuple[Flask, WaffleConf[Any]]


@pytest.fixture
def made(apps: Apps) -> Made:
    """Give an application on SQLite."""
    return apps(Bounds)


@given(
    st.sampled_from(sorted(COMMANDS)),
    st.booleans(),
    arguments,
    texts | json_values().map(json.dumps),
)
@example("import", True, [], '{"LO": ' + "9" * 5000 + "}")  # noqa: FBT003  # as made up
@example("set", True, ["--expect", str(10**30)], "")  # noqa: FBT003
@example("rollback", False, ["--yes", "--no-wait", str(10**30)], "")  # noqa: FBT003
@example("history", False, ["--limit", str(10**30)], "")  # noqa: FBT003
@example("import", True, [], "[" * 100_000)  # noqa: FBT003
@example("prune", False, ["--older-than", f"{10**30}d"], "")  # noqa: FBT003
@fuzzed(150, soak=10_000)
def test_any_arguments_are_done_or_refused(
    made: Made, command: str, is_whole: bool, given_arguments: list[str], typed: str
) -> None:
    app, waffle = made
    fitting = COMMANDS[command] if is_whole else []
    done = run_in_process(app, command, *fitting, *given_arguments, typed=typed)
    assert done.status in (0, 1, 2)
    assert "Traceback" not in done.output + done.errors
    assert done.status == 0 or done.errors, "the reason is named"
    assert 0 <= waffle.settings.LO <= waffle.settings.HI
