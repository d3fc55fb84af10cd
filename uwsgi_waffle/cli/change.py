"""Commands that change settings: ``set``, ``reset``, ``rollback``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

import click

from uwsgi_waffle.process.state import State
from uwsgi_waffle.process.writes import Preview

from . import _render
from ._base import How, change_options, cli, make_change, note, present_state
from ._values import from_readings, parse_assignments, readings

__all__ = ["reset", "rollback", "set_settings"]


@cli.command("set")
@click.argument("assignments", nargs=-1, metavar="NAME=VALUE...")
@click.option(
    "--from-stdin",
    metavar="NAME",
    help="Read the value of NAME from standard input, which keeps it out of the shell's history.",
)
@change_options
def set_settings(assignments: Sequence[str], *, from_stdin: str | None, how: How) -> None:
    """Change settings, all or none, as one revision.

    A VALUE is JSON, such as 5, true or '["a"]', or else a text.
    """
    given = {name: readings(text) for name, text in parse_assignments(assignments).items()}
    if from_stdin in given:
        message = f"{from_stdin} is given twice."
        raise click.UsageError(message)
    if not given and from_stdin is None:
        message = "Give at least one NAME=VALUE, or --from-stdin NAME."
        raise click.UsageError(message)
    state = present_state()
    if from_stdin is not None:
        state.declaration.check_known([from_stdin])
        given[from_stdin] = readings(_read_value(from_stdin), text_first=True)
    values = from_readings(state.declaration, state.serving.current.settings, given)
    make_change(state, how, state.writer.update, values)


def _read_value(name: str) -> str:
    """Return what standard input holds, without the end of its last line."""
    if sys.stdin.isatty():
        return str(click.prompt(f"Value of {name}", hide_input=True, err=True))
    return sys.stdin.read().removesuffix("\n").removesuffix("\r")


@cli.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@change_options
def reset(names: Sequence[str], *, how: How) -> None:
    """Set settings back to their defaults, as one revision."""
    state = present_state()
    make_change(state, how, state.writer.reset, names)


@cli.command()
@click.argument("revision", type=click.IntRange(min=0))
@click.option("--yes", is_flag=True, help="Do not ask.")
@change_options
def rollback(revision: int, *, yes: bool, how: How) -> None:
    """Go back to an earlier revision.

    Shows the difference and asks; then makes a new revision equal to REVISION.
    """
    state = present_state()
    if not yes:
        planned = state.writer.preview_rollback(revision)
        if planned.changes:
            _show(state, planned)
            click.confirm(f"Go back to revision {revision}?", abort=True, err=True)
        if how.expect is None:  # what was shown is what is done
            how = replace(how, expect=planned.revision)
    comment = f"rollback to revision {revision}"
    make_change(state, how, state.writer.rollback, revision, comment=comment)


def _show(state: State, planned: Preview) -> None:
    for line in _render.changes(planned.changes, state.declaration.secrets):
        click.echo(line, err=True)
    for problem in planned.unusable:
        note(f"Warning: {problem} Another release may use it.")
