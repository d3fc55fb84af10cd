"""Commands that maintain the database and the list of hosts, and a listener as a process."""

from __future__ import annotations

import logging
import re
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta, timezone

import click

from uwsgi_waffle.bus.client import BusUnavailable
from uwsgi_waffle.bus.fleet import HostStatus
from uwsgi_waffle.bus.reports import SILENT_SECONDS
from uwsgi_waffle.ops.convergence import with_registered_hosts
from uwsgi_waffle.process.state import State
from uwsgi_waffle.server.concurrency import choose_environment
from uwsgi_waffle.sql.maintenance import prune, resync, rotate_keys
from uwsgi_waffle.values.position import Position

from . import _render
from ._base import (
    PACKAGE,
    Failed,
    cli,
    dry_run_option,
    echo_json,
    get_state,
    json_option,
    note,
    present_state,
)

__all__ = ["forget_host", "init_db", "listen", "prune_history", "resync_database", "rotate"]


@cli.command("init-db")
@json_option
def init_db(*, as_json: bool) -> None:
    """Create the tables that are missing, and the namespace."""
    state = get_state()
    state.store.database.create_tables()
    # Without its key the first change could not be announced.
    state.store.create_namespace()
    url = state.store.database.url
    if as_json:
        echo_json({"database": url})
    else:
        click.echo(f"The tables are there: {url}")


@cli.command("resync")
@json_option
def resync_database(*, as_json: bool) -> None:
    """Let a restored backup be served.

    Hosts ignore a revision that is lower than theirs. This makes SQL's the highest, so that its
    values are served everywhere. It may run on any host.
    """
    state = get_state()
    record = resync(state.store, _positions(state))
    if record is not None:
        state.writer.spread(record)
    revision = state.store.peek().revision if record is None else record.revision
    if as_json:
        echo_json({"revision": revision, "moved": record is not None})
    elif record is None:
        click.echo(f"Nothing to do: SQL is at revision {revision}, and no host is ahead of it.")
    else:
        click.echo(f"SQL has moved to revision {revision}; its values are served everywhere.")


def _positions(state: State) -> list[Position]:
    """Return every position that a host is known to have served of this database."""
    positions = [state.host.position, state.serving.current.position]
    if state.config.multiproc:
        try:
            lineage = state.store.peek().lineage or state.host.position.lineage
            positions.append(state.reports.highest(lineage))
            reported = state.reports.read(lineage).hosts
        except BusUnavailable as error:
            note(
                f"Warning: Redis at {state.redis.location} does not answer ({error}): other hosts "
                "may be ahead of SQL. Run this again once it does."
            )
        else:
            positions += [host.position for host in reported]
            positions += [process.position for host in reported for process in host.exceptions]
    return positions


@cli.command("rotate-keys")
@json_option
def rotate(*, as_json: bool) -> None:
    """Make a new message key, and seal all secrets anew.

    The message key signs what hosts announce and report. Secrets, values and history, are sealed
    with the first of WAFFLE_ENCRYPTION_KEYS, where there are any. All in one transaction.
    """
    state = present_state()
    present = state.store.peek()
    seen = [position for position in _positions(state) if position.lineage == present.lineage]
    latest = max(seen, key=lambda position: position.revision, default=present)
    done = rotate_keys(state.store, state.cipher, state.declaration.secrets, beyond=latest)
    state.writer.spread(done.record)
    revision = done.record.revision
    if as_json:
        echo_json({"revision": revision, "values": done.values, "history": done.history})
        return
    click.echo(
        "New message key: announcements and reports are signed with it; the one before it is "
        "accepted until the next rotation."
    )
    if state.cipher.seals:
        values = _render.counted(done.values, "present value")
        lines = _render.counted(done.history, "line")
        click.echo(
            f"Sealed with the first encryption key: {values}, {lines} of history. The other "
            "encryption keys can go once every process has the first."
        )
    else:
        click.echo("No secret was sealed, as WAFFLE_ENCRYPTION_KEYS is not set.")
    click.echo(f"Revision {revision} has the same values.")


# -- hosts ------------------------------------------------------------------------------------


@cli.command("forget")
@click.argument("name", metavar="HOST")
@json_option
def forget_host(name: str, *, as_json: bool) -> None:
    """Forget a host that is gone for good.

    HOST is its name, or the first digits of its id. `wait` and `set` wait for a host that went
    silent until it is forgotten, which happens by itself after 300 seconds.
    """
    state = get_state()
    if not state.config.multiproc:
        message = "WAFFLE_MULTIPROC is off, so hosts do not report, and cannot be forgotten."
        raise Failed(message)
    lineage = state.store.peek().lineage
    try:
        reported = state.reports.read(lineage, before=state.host.lineages_before).hosts
        host = _find_host(name, list(with_registered_hosts(state, reported).values()))
        state.reports.retire(host.id, host.position.lineage or lineage)
    except BusUnavailable as error:
        message = (
            f"Redis at {state.redis.location} does not answer ({error}), so the report of a host "
            "cannot be removed. Run this again once it does."
        )
        raise Failed(message) from error
    state.registry.forget(host.id)
    seconds = round(host.reported_seconds_ago, 1) if host.reported_at else None
    if as_json:
        echo_json({"id": host.id, "name": host.name, "reported_seconds_ago": seconds})
        return
    since = "never reported" if seconds is None else f"last reported {seconds:.0f} s ago"
    click.echo(f"Forgotten: host {_render.one_line(host.name)} (id {host.id}), which {since}.")


def _find_host(name: str, hosts: Sequence[HostStatus]) -> HostStatus:
    """Return the one silent host of that name or label, or whose id begins so.

    :raises Failed: there is no such host, more than one, or it is not silent
    """
    found = [host for host in hosts if host.name == name] or [
        host
        for host in hosts
        if (name and host.id.startswith(name.lower()))
        or ("#" in name and f"{host.name}#{host.id}".startswith(name))
    ]
    known = ", ".join(f"{host.name} (id {host.id})" for host in found or hosts)
    if not found:
        message = f"No host {name} has reported. Known: {known or 'none'}."
        raise Failed(message)
    if len(found) > 1:
        message = f"Several hosts match {name}: {known}. Give the first digits of an id."
        raise Failed(message)
    host = found[0]
    if host.reported_at and host.reported_seconds_ago <= SILENT_SECONDS:
        message = (
            f"Host {host.name} (id {host.id}) reported {host.reported_seconds_ago:.1f} s ago, so "
            "it would be listed again at once. End its processes first."
        )
        raise Failed(message)
    return host


# -- the history ------------------------------------------------------------------------------


@cli.command("prune")
@click.option(
    "--keep",
    type=click.IntRange(min=0),
    metavar="N",
    help="Keep the history of the latest N revisions.",
)
@click.option("--older-than", metavar="AGE", help="Forget what is older, such as 90d, 12h or 30m.")
@dry_run_option
@json_option
def prune_history(
    *, keep: int | None, older_than: str | None, dry_run: bool, as_json: bool
) -> None:
    """Forget old history.

    Present values stay, and so does each setting's last change, so that the revisions that are
    left can be rolled back to as before.
    """
    if (keep is None) == (older_than is None):
        message = "Give either --keep N or --older-than AGE."
        raise click.UsageError(message)
    before = None if older_than is None else _moment_before(older_than)
    state = get_state()
    done = prune(state.store, keep=keep, before=before, dry_run=dry_run)
    if as_json:
        counts = {"removed": done.removed, "kept": done.kept}
        echo_json({"oldest_revision": done.up_to, **counts, "dry_run": dry_run})
        return
    would = "Dry run: would remove" if dry_run else "Removed"
    click.echo(
        f"{would} {_render.counted(done.removed, 'line')} of history; left: {done.kept}.\n"
        f"The oldest revision to roll back to: {done.up_to}"
    )


_UNITS = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds", "w": "weeks"}


def _moment_before(age: str) -> datetime:
    """Return the moment that lies an age such as ``90d`` back.

    :raises click.UsageError: it has another form, or leads to before the calendar
    """
    found = re.fullmatch(r"(\d{1,6})([wdhms])", age.strip())
    if found is not None:
        with suppress(OverflowError):
            return datetime.now(timezone.utc) - timedelta(**{_UNITS[found[2]]: int(found[1])})
    message = f"{age!r} is not an age, such as 90d, 12h or 30m."
    raise click.UsageError(message)


# -- the listener -----------------------------------------------------------------------------


#: Seconds after which a signal is noticed, and most seconds to wait for the turn of the listener.
LOOK_SECONDS, END_SECONDS = 0.1, 10.0


@cli.command()
def listen() -> None:
    """Run a listener in this process.

    Until SIGTERM or Ctrl-C. For hosts whose servers run no listener.
    """
    state = get_state()
    received: list[int] = []  # a handler must not take a lock, as that of an Event
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: received.append(number))
    log = logging.getLogger(PACKAGE)
    if not logging.getLogger().handlers:
        log.addHandler(logging.StreamHandler())
    if not state.config.multiproc:
        note("Warning: WAFFLE_MULTIPROC is off, so no process announces changes on Redis.")
    if not state.host.is_shared:
        message = (
            f"The host snapshot {state.host.path} cannot be used ({state.host.not_shared_reason}), "
            "so no other process would see what this one hears."
        )
        raise Failed(message)
    state.adopt_process(is_listener=True)
    click.echo(f"Listening for namespace {state.config.namespace}, Redis {state.redis.location}")
    environment = choose_environment()
    environment.start(lambda stop: state.loop.run(state.serving.catch_up, stop))
    while environment.is_alive() and not received:
        time.sleep(LOOK_SECONDS)
    environment.stop(END_SECONDS)
    # It is retired when Python ends, as any process is.
    click.echo("Ended.")
