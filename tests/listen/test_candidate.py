"""Of the processes of a host one listens: the others are woken by it, and take its place.

Applications of this process stand for processes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest

from tests.conftest import Apps
from tests.support import RedisServer, wait_until
from tests.support.listening import Host, messages
from tests.support.statements import recording
from tests.support.waiting import NEVER_SECONDS, SOON_SECONDS
from uwsgi_waffle.host.wakes import Follower
from uwsgi_waffle.listen import candidate
from uwsgi_waffle.values.snapshot import Record

COUNT = 3


@pytest.fixture
def processes(
    apps: Apps, redis_server: RedisServer, writer: Host, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[Host]]:
    """Give processes of one host, at the first revision, which only a wake moves on."""
    made = [Host(apps, "here", redis_server) for _ in range(COUNT)]
    for process in made:
        process.listen()
    first = writer.state.store.peek()
    for process in made:
        wait_until(lambda one=process: one.position == first, SOON_SECONDS, "it serves")  # type: ignore[misc]
    redis_server.wait_for_subscribers(1)
    wait_until(lambda: any(process.turns for process in made), SOON_SECONDS, "it has turned")
    monkeypatch.setattr(candidate, "STANDBY_SECONDS", NEVER_SECONDS)
    yield list(made)
    for process in made:  # all of them before the listener ends, which calls the others
        assert process.state.environment is not None
        process.state.environment.request_stop()


def the_listener(processes: list[Host]) -> Host:
    """Return the one process that listens."""
    (found,) = [process for process in processes if process.turns]
    return found


def test_one_process_subscribes_and_reads_and_all_serve_the_change(
    processes: list[Host], writer: Host, redis_server: RedisServer
) -> None:
    """Those that are woken ask neither SQL nor Redis."""
    with contextlib.ExitStack() as stack:
        engines = [process.state.store.database.engine for process in processes]
        seen = [stack.enter_context(recording(engine)) for engine in engines]
        for _ in range(3):
            record = writer.commit_and_announce()  # what changed is not in the message
            for process in processes:
                process.wait_until_at(record)
        assert sorted(each.reads for each in seen) == [0, 0, 3]
    assert redis_server.subscribers() == 1


def test_when_the_listener_ends_another_process_listens_at_once(
    processes: list[Host], writer: Host, redis_server: RedisServer
) -> None:
    """They need not wait until they look again, which they do after an hour."""
    while len(processes) > 1:
        ending = the_listener(processes)
        assert ending.state.environment is not None
        processes.remove(ending)
        ending.state.environment.stop(SOON_SECONDS)
        wait_until(lambda: any(p.turns for p in processes), SOON_SECONDS, "another one listens")
        size = 10 + len(processes)
        writer.change(size)
        for process in processes:
            process.wait_until_serving(size)
        assert redis_server.subscribers() == 1


def test_a_process_that_cannot_connect_looks_by_itself(
    apps: Apps, redis_server: RedisServer, writer: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Follower, "connect", lambda _: False)
    monkeypatch.setattr(candidate, "STANDBY_SECONDS", 0.05)
    here = [Host(apps, "here", redis_server) for _ in range(2)]
    for process in here:
        process.listen()
    writer.change(7)
    for process in here:
        process.wait_until_serving(7)


def test_an_unexpected_error_is_logged_and_tried_again(
    processes: list[Host],
    writer: Host,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As for the listener itself."""
    monkeypatch.setattr(candidate, "STANDBY_SECONDS", 0.05)
    failures = [ZeroDivisionError("once")]
    followers = [process for process in processes if not process.turns]
    for follower in followers:
        take = follower.state.serving._take  # noqa: SLF001  what it does with a new record

        def fail(record: Record, take: Callable[[Record], None] = take) -> None:
            if failures:
                raise failures.pop()
            take(record)

        monkeypatch.setattr(follower.state.serving, "_take", fail)
    writer.change(7)
    for process in processes:
        process.wait_until_serving(7)
    assert len(messages(caplog.records, "following the listener failed")) == 1
