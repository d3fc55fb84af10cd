"""Commands that answer whether all is well: ``status``, ``metrics``, ``wait``, ``doctor``."""

from __future__ import annotations

import time
from pathlib import Path

import click

from uwsgi_waffle.errors import StoreUnavailable
from uwsgi_waffle.ops import metrics as numbers
from uwsgi_waffle.ops.doctor import examine
from uwsgi_waffle.ops.status import collect
from uwsgi_waffle.process.state import State

from . import _render
from ._base import (
    Failed,
    cli,
    echo_json,
    end_with_fleet,
    get_state,
    json_option,
    timeout_option,
    wait_for_fleet,
)

__all__ = ["doctor", "metrics", "status", "wait"]


@cli.command()
@click.option("--watch", is_flag=True, help="Redraw until Ctrl-C.")
@click.option(
    "--interval",
    type=click.FloatRange(min=0.1),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="How often to redraw.",
)
@json_option
def status(*, watch: bool, interval: float, as_json: bool) -> None:
    """Show which process serves which revision.

    A line for each process of each host, and what is not as it should be.
    """
    state = get_state()
    if not watch:
        _print_status(state, as_json=as_json)
        return
    try:
        while True:
            _print_status(state, as_json=as_json, is_frame=True)
            time.sleep(interval)
    except KeyboardInterrupt:
        click.echo()


def _print_status(state: State, *, as_json: bool, is_frame: bool = False) -> None:
    """Print the present status.

    :param is_frame: it is one of many: on a clear screen; as JSON, in one line
    """
    _follow(state)
    found = collect(state)
    if as_json:
        echo_json(_render.status_json(found), indent=None if is_frame else 2)
        return
    namespace, database = state.config.namespace, state.store.database.url
    text = "\n".join(_render.status(found, namespace=namespace, database=database))
    if is_frame:
        click.clear()
    click.echo(text)


def _follow(state: State) -> None:
    """Serve what SQL holds now, or else what the host snapshot does."""
    try:
        state.refresh()
    except StoreUnavailable:
        state.serving.catch_up()


@cli.command()
@json_option
def metrics(*, as_json: bool) -> None:
    """Print this host in numbers, for Prometheus.

    As every process of the host knows them; neither SQL nor Redis is asked for them.
    """
    found = numbers.collect(get_state())
    if as_json:
        echo_json(found)
    else:
        click.echo(numbers.text(found), nl=False)


@cli.command()
@click.argument("revision", type=click.IntRange(min=0), required=False)
@timeout_option
@json_option
def wait(revision: int | None, *, timeout: float, as_json: bool) -> None:
    """Wait until every process serves REVISION.

    By default the present one. Ends with status 1 where some process of some host does not serve
    it in time, or refuses a value of it, and names those.
    """
    state = get_state()
    _follow(state)
    newest = state.store.peek().revision
    wanted = newest if revision is None else revision
    if wanted > newest:
        message = f"There is no revision {wanted} to wait for: SQL is at revision {newest}."
        raise Failed(message)
    fleet, failure = wait_for_fleet(state, wanted, timeout)
    if as_json:
        echo_json(_render.fleet_json(fleet))
    end_with_fleet(state, fleet, failure, as_json=as_json)


@cli.command()
@click.option(
    "--ini",
    "ini_files",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    help="Also look through a configuration of uWSGI; those in use are found by themselves.",
)
@json_option
def doctor(*, ini_files: tuple[Path, ...], as_json: bool) -> None:
    """Look for faults, and name the fix for each.

    Ends with status 1 where something is wrong.
    """
    found = examine(get_state(), ini_files)
    if as_json:
        echo_json({"ok": found.looked_at, "findings": found.findings})
    else:
        for line in _render.diagnosis(found):
            click.echo(line)
    wrong = sum(finding.is_wrong for finding in found.findings)
    if wrong:
        message = f"{_render.counted(wrong, 'fault')} found."
        raise Failed(message)
