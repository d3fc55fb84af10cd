"""Processes that write settings at the same moment, each on another host."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from typing import Any

import sqlalchemy as sa
from flask import Flask

from tests.conftest import Apps
from tests.support.declarations import Bounds
from tests.support.waiting import SOON_SECONDS
from uwsgi_waffle import InvalidSetting, RevisionConflict, WaffleConf
from uwsgi_waffle.process.state import State

#: A server process that imports this module once, and forks the writers.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([__name__])


class Settings(Bounds):
    """What the writers write."""

    LAST: str = ""
    COUNTER: int = 0
    HI: int = 100


Outcome = dict[str, Any]


def write_unique(waffle: WaffleConf[Settings], _state: State, count: int) -> Outcome:
    """Write values that no other process writes, so each write makes a revision."""
    pid = os.getpid()
    done = [waffle.update({"LAST": f"{pid} {i}", "COUNTER": i}) for i in range(count)]
    return {"revisions": [update.revision for update in done]}


def count_up(waffle: WaffleConf[Settings], state: State, count: int) -> Outcome:
    """Read, add one and write, provided that no other process has written in between."""
    revisions: list[int] = []
    refused: list[tuple[int, int]] = []
    for _ in range(count):
        record = state.store.read()
        counter = int(record.rows.get("COUNTER", "0"))
        try:
            done = waffle.update({"COUNTER": counter + 1}, expected_revision=record.revision)
        except RevisionConflict as conflict:
            refused.append((conflict.expected, conflict.actual))
        else:
            revisions.append(done.revision)
    return {"revisions": revisions, "refused": refused}


def move_bounds(waffle: WaffleConf[Settings], _state: State, count: int) -> Outcome:
    """Move a bound to any value that is valid by itself."""
    rng = random.Random(os.getpid())  # noqa: S311  guards nothing
    revisions: list[int] = []
    refused = 0
    for _ in range(count):
        try:
            done = waffle.update({rng.choice(["LO", "HI"]): rng.randrange(101)})
        except InvalidSetting:
            refused += 1
        else:
            revisions.append(done.revision)
    return {"revisions": revisions, "refused": refused}


def die_in_transaction(waffle: WaffleConf[Settings], state: State, _count: int) -> Outcome:
    """Be killed when everything is written and nothing committed."""
    engine = state.store.database.engine
    sa.event.listen(engine, "commit", lambda _: os.kill(os.getpid(), signal.SIGKILL))
    waffle.update({"LAST": "never", "COUNTER": -1})
    return {}


def hold_lock(waffle: WaffleConf[Settings], state: State, _count: int) -> Outcome:
    """Stay in the transaction, once the lock is taken, until the test ends it."""
    engine = state.store.database.engine
    connection = _test_ends[0]

    def hold(_: object) -> None:
        connection.send("holding")
        connection.recv()

    sa.event.listen(engine, "commit", hold)
    waffle.update({"LAST": "held"})
    return {}


#: Of this process, if it is a writer.
_test_ends: list[Connection] = []

Act = Callable[[WaffleConf[Settings], State, int], Outcome]


def _write(act: Act, uri: str, snapshot: str, count: int, test: Connection) -> None:
    app = Flask("writer")
    app.config.update(WAFFLE_DATABASE_URI=uri, WAFFLE_SNAPSHOT_PATH=snapshot)
    waffle = WaffleConf(app, Settings)
    _test_ends.append(test)
    test.send("ready")
    test.recv()
    test.send(act(waffle, app.extensions["waffleconf"], count))


@contextlib.contextmanager
def writers(
    act: Act, apps: Apps, processes: int, count: int
) -> Iterator[list[tuple[ForkServerProcess, Connection]]]:
    """Start processes that write, and kill what is left of them at the end."""
    started: list[tuple[ForkServerProcess, Connection]] = []
    try:
        for number in range(processes):
            snapshot = str(apps.directory / f"writer-{number}" / "snapshot")
            connection, other_end = _context.Pipe()
            arguments = act, apps.database_uri, snapshot, count, other_end
            started.append((_context.Process(target=_write, args=arguments), connection))
            started[-1][0].start()
            other_end.close()
        assert [_receive(connection) for _, connection in started] == ["ready"] * processes
        for _, connection in started:
            connection.send("go")
        yield started
    finally:
        for process, connection in started:
            process.kill()
            process.join(SOON_SECONDS)
            process.close()
            connection.close()


def outcomes(act: Act, apps: Apps, processes: int, count: int) -> list[Outcome]:
    """Run processes that write, and return what became of their writes."""
    with writers(act, apps, processes, count) as started:
        return [_receive(connection) for _, connection in started]


def _receive(connection: Connection) -> Any:
    """Return what a writer sends; raises EOFError where it has died."""
    assert connection.poll(SOON_SECONDS * 10), "the writer answers"
    return connection.recv()
