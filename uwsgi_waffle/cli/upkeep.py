"""Commands that look after what is stored, and the listener as a process of its own."""

from __future__ import annotations

import logging
import re
import signal
import time
from datetime import datetime, timedelta, timezone

import click

from uwsgi_waffle.bus.client import BusUnavailable
from uwsgi_waffle.process.state import State
from uwsgi_waffle.sql.maintenance import create_tables, prune, resync, rotate_keys
from uwsgi_waffle.values.position import Position

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

__all__ = ["init_db", "listen", "prune_history", "resync_database", "rotate"]


@cli.command("init-db")
@json_option
def init_db(*, as_json: bool) -> None:
    """Create the tables that are missing."""
    state = get_state()
    create_tables(state.store)
    url = state.store.database.url
    if as_json:
        echo_json({"database": url})
    else:
        click.echo(f"The tables are there: {url}")


@cli.command("resync")
@json_option
def resync_database(*, as_json: bool) -> None:
    """Let a restored backup be served.

    Hosts take no revision that is lower than theirs. This makes SQL's the highest, so that its
    values are served everywhere.
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
    """Return what each host has seen of SQL; where Redis is away, what this one has."""
    positions = [state.host.position, state.serving.current.position]
    if state.config.multiproc:
        try:
            lineage = state.store.peek().lineage
            reported = state.reports.read(lineage).hosts
            positions.append(state.reports.highest(lineage))
        except BusUnavailable as error:
            note(f"Warning: Redis does not answer ({error}): other hosts may be ahead of SQL.")
        else:
            positions += [host.position for host in reported]
    return positions


@cli.command("rotate-keys")
@json_option
def rotate(*, as_json: bool) -> None:
    """Seal all secrets anew with the first key.

    The first of WAFFLE_ENCRYPTION_KEYS; values and history, in one transaction.
    """
    state = present_state()
    secrets = state.declaration.secrets
    done = rotate_keys(state.store, state.cipher, secrets, beyond=state.host.position)
    if done.values or done.history:
        state.writer.spread(done.record)
    if as_json:
        counts = {"values": done.values, "history": done.history}
        echo_json({"revision": done.record.revision, **counts})
        return
    click.echo(
        f"Sealed with the first key: {done.values} present values, {done.history} lines of "
        f"history.\nrevision {done.record.revision}: same values. The other keys can go once "
        "every process has the new first key."
    )


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
    """Forget old history. Present values stay, and so does each setting's last change.

    What is left can be rolled back to as before.
    """
    if (keep is None) == (older_than is None):
        message = "Give either --keep N or --older-than AGE."
        raise click.UsageError(message)
    before = None if older_than is None else datetime.now(timezone.utc) - _age(older_than)
    state = get_state()
    done = prune(state.store, keep=keep, before=before, dry_run=dry_run)
    if as_json:
        counts = {"removed": done.removed, "kept": done.kept}
        echo_json({"oldest_revision": done.up_to, **counts, "dry_run": dry_run})
        return
    would = "Dry run: would remove" if dry_run else "Removed"
    click.echo(
        f"{would} {done.removed} lines of history; {done.kept} are left.\n"
        f"The oldest revision to roll back to: {done.up_to}"
    )


_UNITS = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds", "w": "weeks"}


def _age(text: str) -> timedelta:
    """Return an age such as ``90d``.

    :raises click.UsageError: it is none
    """
    found = re.fullmatch(r"(\d{1,6})([wdhms])", text.strip())
    if found is None:
        message = f"{text!r} is not an age, such as 90d, 12h or 30m."
        raise click.UsageError(message)
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


@cli.command()
def listen() -> None:
    """Run a listener as a process of its own.

    Until SIGTERM or Ctrl-C. For hosts whose servers run no listener of their own.
    """
    state = get_state()
    stop = _Stop()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    log = logging.getLogger(PACKAGE)
    if not logging.getLogger().handlers:
        log.addHandler(logging.StreamHandler())
    if not state.config.multiproc:
        note("Warning: WAFFLE_MULTIPROC is off, so nobody announces changes on Redis.")
    if not state.host.is_shared:
        message = f"The host snapshot {state.host.path} cannot be used, so nobody would be told."
        raise Failed(message)
    state.adopt_process(is_listener=True)
    click.echo(f"Listening for namespace {state.config.namespace}, Redis {state.redis.location}")
    state.loop.run(state.serving.catch_up, stop)
    # Its goodbye is said when Python ends, as that of any process.
    click.echo("Ended.")


class _Stop:
    """What a signal handler may set: unlike a ``threading.Event``, without a lock."""

    #: How late a wait notices.
    LOOK_SECONDS = 0.1

    def __init__(self) -> None:
        self._is_set = False

    def set(self) -> None:
        self._is_set = True

    def is_set(self) -> bool:
        """Return whether the loop is to end."""
        return self._is_set

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the loop is to end, at most *timeout* seconds; return whether it is."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._is_set:
            left = self.LOOK_SECONDS if deadline is None else deadline - time.monotonic()
            if left <= 0:
                break
            time.sleep(min(left, self.LOOK_SECONDS))
        return self._is_set
