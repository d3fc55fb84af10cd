"""Commands that show settings: ``list``, ``get``, ``history``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import click

from uwsgi_waffle.errors import StoreUnavailable, UnknownSetting
from uwsgi_waffle.ops.plain import change_json, plain
from uwsgi_waffle.process.state import State
from uwsgi_waffle.sql.history import Change
from uwsgi_waffle.values.settings import MASK

from . import _render
from ._base import (
    cli,
    echo_json,
    get_state,
    json_option,
    note,
    present_state,
    reveal_option,
)
from ._follow import Reader, Tail, wait_for_change

__all__ = ["get", "history", "list_settings"]

#: How many changes `history` shows, and with `--follow` at first, unless it is told.
LIMIT, FOLLOW_LIMIT = 50, 10


@cli.command("list")
@reveal_option
@json_option
def list_settings(*, reveal: bool, as_json: bool) -> None:
    """List all settings with their present values."""
    state = present_state()
    items = [describe(state, name, reveal=reveal) for name in state.declaration.names]
    current = state.serving.current
    if as_json:
        echo_json(
            {"revision": current.revision, "lineage": current.position.lineage, "settings": items}
        )
    else:
        rows = [
            (
                " " if item["is_default"] else "*",
                item["name"],
                _render.shown(item["value"]),
                item["description"] or "",
            )
            for item in items
        ]
        for line in _render.table(("", "NAME", "VALUE", "DESCRIPTION"), rows, most=(1, 30, 30)):
            click.echo(line)
        click.echo(f"\nRevision {current.revision}. * differs from the default.")
    for refused in current.refused:
        note(f"Warning: {refused}")


def describe(state: State, name: str, *, reveal: bool) -> dict[str, Any]:
    """Return what `list` and `get` show of a setting."""
    declaration = state.declaration
    text = declaration.to_json(state.serving.current.settings, name)
    default = declaration.default_json[name]
    masked = name in declaration.secrets and not reveal
    return {
        "name": name,
        "value": MASK if masked else json.loads(text),
        "default": MASK if masked else json.loads(default),
        "is_default": text == default,
        "is_secret": name in declaration.secrets,
        "description": declaration.model.model_fields[name].description,
    }


@cli.command()
@click.argument("name")
@reveal_option
@json_option
def get(name: str, *, reveal: bool, as_json: bool) -> None:
    """Print the value of one setting.

    A text is printed as it is, anything else as JSON.
    """
    state = present_state()
    state.declaration.check_known([name])
    item = describe(state, name, reveal=reveal)
    if as_json:
        echo_json({"revision": state.serving.current.revision, **item})
        return
    value = item["value"]
    if not isinstance(value, str):
        value = _render.printable(json.dumps(value, ensure_ascii=False))
    elif sys.stdout.isatty():  # a program gets it as it is
        value = "\n".join(map(_render.printable, value.split("\n")))
    click.echo(value)


@cli.command()
@click.argument("name", required=False)
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    show_default=f"{LIMIT}; {FOLLOW_LIMIT} with --follow",
    help="How many changes at most; of those before, with --follow.",
)
@click.option("--all", "everything", is_flag=True, help="Show all changes.")
@click.option("--follow", is_flag=True, help="Oldest first; go on with each new change.")
@reveal_option
@json_option
def history(  # noqa: PLR0913  # as many as options
    name: str | None,
    *,
    limit: int | None,
    everything: bool,
    follow: bool,
    reveal: bool,
    as_json: bool,
) -> None:
    """Show who changed what, when and why.

    Newest first; of one setting only, if NAME is given. With --follow oldest first, and each new
    change as it comes, until Ctrl-C.
    """
    if follow:
        most = FOLLOW_LIMIT if limit is None else limit
        _follow(name, None if everything else most, reveal=reveal, as_json=as_json)
        return
    if limit == 0:
        message = "--limit 0 shows nothing without --follow."
        raise click.UsageError(message)
    state = present_state()
    most = LIMIT if limit is None else limit
    lines = state.history.changes(name, None if everything else most, reveal=reveal)
    # A setting that is no longer declared may still have a history.
    if name is not None and not lines and name not in state.declaration.names:
        raise UnknownSetting([name], state.declaration.names)
    if reveal:
        lines = [_revealed(line) for line in lines]
    if as_json:
        echo_json([change_json(line) for line in lines])
        return
    for line in _render.history(lines):
        click.echo(line)
    if not lines:
        click.echo("Nothing has been changed yet.")


def _follow(name: str | None, limit: int | None, *, reveal: bool, as_json: bool) -> None:
    """Print the history and what comes, until Ctrl-C, or until its reader is gone."""
    state, reader = get_state(), Reader()
    try:
        for number, lines in enumerate(_batches(state, reader, name, limit, reveal=reveal)):
            if as_json:
                for line in lines:
                    echo_json(change_json(line), indent=None)
            else:
                for text in ([""] if number else []) + list(_render.history(lines)):
                    click.echo(text)
    except (KeyboardInterrupt, BrokenPipeError):
        pass  # both are how it ends


def _batches(
    state: State, reader: Reader, name: str | None, limit: int | None, *, reveal: bool
) -> Iterator[list[Change]]:
    """Yield the changes, some at a time, until their reader is gone."""
    tail = Tail(state, name, reveal=reveal)
    has_started = is_away = False
    while True:
        sequence = state.host.sequence
        try:
            lines = tail.new() if has_started else tail.start(limit)
        except StoreUnavailable as error:
            if not is_away:
                note(f"{error} The history goes on when it answers again.")
            is_away = True
        else:
            has_started, is_away = True, False
            if lines:
                yield [_revealed(line) for line in lines] if reveal else lines
        if not wait_for_change(state, sequence, reader):
            return


def _revealed(change: Change) -> Change:
    """Return a line of the history with what pydantic's secret types hide."""
    old, new = (plain(value, reveal=True) for value in (change.old, change.new))
    return replace(change, old=old, new=new)
