"""Every command, option, key and public name is documented, and every link has a target."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

import uwsgi_waffle
from tests.support.places import PAGES, ROOT
from uwsgi_waffle.cli import cli
from uwsgi_waffle.config import Config

DOCS = {path.name: path.read_text() for path in (ROOT / "docs").glob("*.md")}
COMMANDS = sorted(cli.commands)


def section(command: str) -> str:
    """Return what the reference has about a command."""
    heading = rf"(?ms)^### `flask waffle {re.escape(command)}\b(.*?)(?=^##|\Z)"
    found = re.search(heading, DOCS["cli.md"])
    assert found is not None, f"docs/cli.md has no section for {command}"
    return found[0]


def options(command: click.Command) -> set[str]:
    """Return the options of a command, each as it is typed."""
    return {
        option
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for option in parameter.opts
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_is_documented_with_its_options(name: str) -> None:
    text = section(name)
    assert [option for option in options(cli.commands[name]) if f"`{option}" not in text] == []


def test_the_reference_has_no_other_command_or_option() -> None:
    documented = set(re.findall(r"`(--[a-z-]+)", DOCS["cli.md"])) - {"--app"}
    assert documented == set[str]().union(*(options(cli.commands[name]) for name in COMMANDS))
    assert sorted(re.findall(r"(?m)^### `flask waffle ([a-z-]+)", DOCS["cli.md"])) == COMMANDS


def test_each_key_is_documented() -> None:
    keys = {f"WAFFLE_{name.upper()}" for name in Config.model_fields}
    assert keys == set(re.findall(r"(?m)^\| `(WAFFLE_[A-Z_]+)` \|", DOCS["configuration.md"]))


def test_each_public_name_is_documented() -> None:
    text = "\n".join(DOCS.values())
    names = uwsgi_waffle.__all__
    assert [name for name in names if not re.search(rf"\b{name}\b", text)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_link_has_a_target(page: Path) -> None:
    targets = re.findall(r"""(?:\]\(|src=")([^)"#:]+)[)"#]""", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []
