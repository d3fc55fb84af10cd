"""Every command and every flag is documented, and tested."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from uwsgi_waffle.cli import cli

ROOT = Path(__file__).parents[1]
REFERENCE = (ROOT / "docs" / "cli.md").read_text()
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
TESTS = "".join(
    path.read_text() for path in (ROOT / "tests").glob("test_*.py") if "docs" not in path.name
)

FLAGS = [
    (name, flag)
    for name, command in sorted(cli.commands.items())
    for parameter in command.params
    if isinstance(parameter, click.Option)
    for flag in parameter.opts
]


def _section(command: str) -> str:
    """Return what the reference says of a command."""
    found = re.search(rf"(?ms)^### `flask waffle {re.escape(command)}\b(.*?)(?=^##|\Z)", REFERENCE)
    assert found is not None, f"docs/cli.md has no section for {command}"
    return found[1]


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_each_command_is_documented_and_tested(name: str) -> None:
    """It has a section in the reference, a place in the operators' page, and a test runs it."""
    assert _section(name)
    assert f"flask waffle {name}" in OPERATIONS
    assert f'"{name}"' in TESTS


@pytest.mark.parametrize(("name", "flag"), FLAGS)
def test_each_flag_is_documented_and_tested(name: str, flag: str) -> None:
    assert f"`{flag}" in _section(name)
    assert f'"{flag}"' in TESTS


def test_the_reference_tells_of_no_flag_or_command_that_is_not_there() -> None:
    told = set(re.findall(r"`(--[a-z-]+)", REFERENCE)) - {"--app"}
    assert told == {flag for _, flag in FLAGS}
    sections = re.findall(r"^### `flask waffle ([a-z-]+)", REFERENCE, re.MULTILINE)
    assert sorted(sections) == sorted(cli.commands)


def test_each_page_links_to_what_is_there() -> None:
    for page in (ROOT / "docs").glob("*.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
