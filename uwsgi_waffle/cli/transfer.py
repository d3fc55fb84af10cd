"""Commands that move settings elsewhere: ``export``, ``import``, ``adopt-legacy``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from typing import Any, TextIO

import click

from uwsgi_waffle.process.state import State
from uwsgi_waffle.sql.database import Database
from uwsgi_waffle.sql.legacy import plan_adoption, read_table
from uwsgi_waffle.values.settings import MASK

from . import _render
from ._base import (
    Failed,
    How,
    change_options,
    cli,
    dry_run_option,
    echo_json,
    make_change,
    note,
    present_state,
    reveal_option,
)
from ._values import differences, from_json_texts

__all__ = ["adopt_legacy", "export", "import_settings"]


@cli.command()
@reveal_option
@click.option("--json", "_as_json", is_flag=True, help="Print JSON, which is the default.")
def export(*, reveal: bool, _as_json: bool) -> None:
    """Print all settings as JSON, for `import`."""
    state = present_state()
    current = state.serving.current
    values = {
        name: MASK
        if name in state.declaration.secrets and not reveal
        else json.loads(state.declaration.to_json(current.settings, name))
        for name in state.declaration.names
    }
    echo_json(
        {
            "namespace": state.config.namespace,
            "lineage": current.position.lineage,
            "revision": current.revision,
            "settings": values,
        }
    )


@cli.command("import")
@click.argument("file", type=click.File(encoding="utf-8"))
@dry_run_option
@change_options
def import_settings(file: TextIO, *, dry_run: bool, how: How) -> None:
    """Set what `export` wrote.

    From FILE, or - for standard input. All or none, as one revision. Settings that the file does
    not name stay as they are, and so do secrets that it masks.
    """
    given = _read_export(file)
    state = present_state()
    masked = [n for n in given if n in state.declaration.secrets and given[n] == MASK]
    for name in masked:
        del given[name]
        note(f"Left as it is, because the file masks it: {name}")
    texts = {name: json.dumps(value) for name, value in given.items()}
    values = from_json_texts(state.declaration, state.serving.current.settings, texts)
    if dry_run:
        _report_plan(state, values, as_json=how.as_json)
        return
    make_change(state, how, state.writer.update, values, comment=f"import of {file.name}")


def _read_export(file: TextIO) -> dict[str, Any]:
    """Return the settings that a file holds.

    :raises Failed: it has another form than what `export` writes
    """
    try:
        found = json.load(file)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is one of the first
        message = f"{file.name} is not JSON: {error}"
        raise Failed(message) from None
    settings = found.get("settings") if isinstance(found, dict) else None
    if not isinstance(settings, dict):
        message = f'{file.name} is not what `export` writes: {{"settings": {{"NAME": value}}}}.'
        raise Failed(message)
    return settings


def _report_plan(
    state: State,
    values: Mapping[str, object],
    left: Mapping[str, str] | None = None,
    *,
    as_json: bool,
) -> None:
    """Print what a change would do; raises where it would be refused."""
    current = state.serving.current
    after = state.declaration.validate(current.settings, values)
    changes = differences(state.declaration, current.settings, after)
    masked = state.declaration.secrets
    if as_json:
        plan = {"revision": current.revision, "changes": _render.changes_json(changes, masked)}
        echo_json({**plan, "dry_run": True, **({} if left is None else {"left": dict(left)})})
        return
    for line in _render.changes(changes, masked):
        click.echo(line)
    count = _render.counted(len(changes), "setting")
    click.echo(f"Dry run: {count} would change; revision {current.revision} stays.")


@cli.command("adopt-legacy")
@click.option(
    "--table", default="confs", show_default=True, metavar="NAME", help="The table to import."
)
@click.option(
    "--key-column", default="key", show_default=True, metavar="NAME", help="Its column of keys."
)
@click.option(
    "--value-column",
    default="value",
    show_default=True,
    metavar="NAME",
    help="Its column of values.",
)
@click.option(
    "--database", metavar="URL", help="Where the table is, if not in the database of the settings."
)
@dry_run_option
@change_options
def adopt_legacy(  # noqa: PLR0913  # as many as there are options
    *,
    table: str,
    key_column: str,
    value_column: str,
    database: str | None,
    dry_run: bool,
    how: How,
) -> None:
    """Import the table of Flask-WaffleConf 0.3.

    Its values are pickles. Scalars, and lists, tuples, sets and dicts of them, are imported as one
    revision. Any other pickle is not run; its name is printed. The table stays as it is.
    """
    state = present_state()
    source = state.store.database
    if database is not None:
        source = Database(database, auto_create=False, named="--database")
    with closing(source):
        rows = read_table(source, table, key_column, value_column)
    adoption = plan_adoption(state.declaration, state.serving.current.settings, rows)
    for key, why in adoption.left.items():
        note(f"Left: {key}: {why}")
    if dry_run:
        _report_plan(state, adoption.values, adoption.left, as_json=how.as_json)
        return
    comment = f"adopted from table {table}"
    make_change(state, how, state.writer.update, adoption.values, comment=comment)
