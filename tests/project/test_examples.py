"""The code blocks of README.md and docs/*.md run.

A page's ``python`` blocks run in their order as one program; an HTML comment ``<!-- setup`` before
a block holds what the page leaves out. A line ``$ flask waffle`` of a ``console`` block does what
it shows. What cannot run has ``<!-- not run: reason -->`` before it. The pages that are one session
with a server, its ini file included, are run by ``test_two_applications``, and the one whose blocks
are the files of an application by ``test_walkthrough``.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import quick_start
from tests.support.command_line import flask_environment
from tests.support.places import PAGES
from tests.support.quick_start import Finished

WALKTHROUGH = "walkthrough.md"
BLOCK = re.compile(
    r"(?:<!--[ ]setup\n(?P<setup>.*?)-->\s*)?"
    r"(?P<not_run><!--[ ]not[ ]run:[ ][^>]+-->\s*)?"
    r"^```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
SESSIONS = {"README.md", "two-applications.md"}
#: For the console: an application with the settings that the examples change.
APPLICATION = """
from flask import Flask
from uwsgi_waffle import WaffleConf

app = Flask(__name__)
app.config["WAFFLE_SNAPSHOT_PATH"] = app.instance_path + "/snapshot"
app.config["WAFFLE_CONFS"] = {
    "SITENAME": {"default": "Waffle", "desc": "Name shown in the header"},
    "MAX_FILESIZE": {"default": 1000, "desc": "Max upload size (bytes)"},
    "MIN_FILESIZE": {"default": 1, "desc": "Min upload size (bytes)"},
    "TAGS": {"default": [], "type": list[str], "desc": "Tags"},
    "CLOSED": {"default": False},
    "API_KEY": {"default": "", "secret": True, "desc": "Key of the mail service"},
}
waffle = WaffleConf(app)
"""


@dataclass(frozen=True)
class Block:
    """A code block that runs.

    :ivar setup: what runs before it, and is not shown
    """

    page: Path
    line: int
    language: str
    setup: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(language: str) -> Iterator[Block]:
    """Yield the blocks in a language that run."""
    for page in PAGES:
        text = page.read_text()
        for found in BLOCK.finditer(text):
            in_session = page.name in SESSIONS and language != "python"
            in_session |= page.name == WALKTHROUGH
            if found["language"] == language and not found["not_run"] and not in_session:
                line = text.count("\n", 0, found.start("text"))
                yield Block(page, line, language, found["setup"] or "", found["text"])


PYTHON = list(blocks("python"))


def run(directory: Path, *arguments: str, typed: str = "", quick: bool = True) -> Finished:
    """Run `python` to its end, every warning an error; *quick* is that of `quick_start.run`."""
    return quick_start.run(
        [sys.executable, "-W", "error", *arguments],
        directory=directory,
        environment=flask_environment({}),
        typed=typed,
        seconds=60,
        quick=quick,
    )


def test_every_block_is_found() -> None:
    """No fence, setup or mark is written so that a block is overlooked."""
    for page in PAGES:
        text = page.read_text()
        found = list(BLOCK.finditer(text))
        assert 2 * len(found) == len(re.findall(r"(?m)^\s*```", text)), page
        assert sum(bool(block["setup"]) for block in found) == text.count("<!-- setup"), page
        assert sum(bool(block["not_run"]) for block in found) == text.count("<!-- not run"), page


@pytest.mark.parametrize("page", sorted({block.page for block in PYTHON}), ids=lambda p: p.name)
def test_the_python_of_a_page_runs(page: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    for block in PYTHON:
        if block.page == page:
            lines += [*block.setup.splitlines(), f"# {block}", *block.text.splitlines()]
    (tmp_path / "example.py").write_text("\n".join(lines))
    # The imports of libraries are a part of it: none may warn.
    done = run(tmp_path, "example.py", quick=False)
    assert done.status == 0, done.errors


def test_each_ini_file_belongs_to_a_session() -> None:
    """What is not run as a part of one is a fragment, and marked as not run."""
    assert list(map(str, blocks("ini"))) == []


@pytest.mark.parametrize("block", list(blocks("console")), ids=str)
def test_the_commands_of_a_console_do_what_they_show(block: Block, tmp_path: Path) -> None:
    """Each ends as shown: with an error where one is shown, and only there."""
    (tmp_path / "app.py").write_text(APPLICATION)
    for before in ("MAX_FILESIZE=5", 'TAGS=["a"]'):  # revisions 1 and 2
        assert run(tmp_path, "-m", "flask", "waffle", "set", before).status == 0
    for shown in block.text.split("$ ")[1:]:
        line, _, output = shown.partition("\n")
        program, *arguments = shlex.split(line, comments=True)
        assert (program, arguments[0]) == ("flask", "waffle"), line
        done = run(tmp_path, "-m", "flask", *arguments, typed="y\n")
        assert done.status == int("Error:" in output), f"{line}\n{done.output}{done.errors}"
