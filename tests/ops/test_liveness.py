"""`health`: whether another start of a process would help."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import REDIS_PASSWORD, Apps, state_of
from tests.ops.conftest import WELL, becomes
from tests.support import RedisServer, wait_until
from tests.support.listening import CONFS, Host
from tests.support.waiting import SOON_SECONDS
from uwsgi_waffle import Health
from uwsgi_waffle.ops import health
from uwsgi_waffle.server import concurrency
from uwsgi_waffle.sql.store import Store


@pytest.fixture
def _soon_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count a listener as standing still after half a second."""
    monkeypatch.setattr(health, "STANDSTILL_SECONDS", 0.5)
    monkeypatch.setattr(health, "SEARCH_SECONDS", 0.5)


def test_without_redis_all_is_alive(apps: Apps, own_redis: RedisServer) -> None:
    """Processes that are started anew because Redis is away do not bring it back."""
    here = Host(apps, "here", own_redis, poll_seconds=0.2)
    here.listen(own_redis)
    assert here.waffle.health() == WELL
    own_redis.kill()
    found = becomes(here.waffle.health, lambda h: bool(h.reasons), "it is named")
    assert (found.ready, found.live) == (True, True)
    assert "only polls SQL, every 0.2 s" in found.reasons[0]
    assert REDIS_PASSWORD not in str(found)
    own_redis.start()
    assert becomes(here.waffle.health, lambda h: not h.reasons, "Redis is heard") == WELL


@contextlib.contextmanager
def standing_still(here: Host) -> Iterator[None]:
    """Have the listener of a host hang."""
    hangs, goes_on = threading.Event(), threading.Event()

    def hang() -> None:
        hangs.set()
        goes_on.wait(SOON_SECONDS)

    here.on_move = hang
    here.change(here.position.revision + 2)
    assert hangs.wait(SOON_SECONDS)
    here.on_move = lambda: None
    try:
        yield
    finally:
        goes_on.set()


@pytest.mark.usefixtures("_soon_stands_still")
def test_a_listener_that_stands_still_is_not_alive(apps: Apps, redis_server: RedisServer) -> None:
    """The process serves each change all the same."""
    here = Host(apps, "here", redis_server, poll_seconds=0.1)
    here.listen(redis_server)
    with standing_still(here):
        found = becomes(here.waffle.health, lambda h: not h.live, "it is found out")
        assert found.ready
        assert "The listener of this host has not turned for " in found.reasons[0]
        assert "though SQL answers" in found.reasons[0]
    assert becomes(here.waffle.health, lambda h: h.live, "it turns again").ready


@pytest.mark.usefixtures("_soon_stands_still")
def test_where_threads_run_only_beside_requests_no_listener_is_missed(
    apps: Apps, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In uWSGI before 2.0.27, unless it is told to run threads: another start is no help."""
    here = Host(apps, "here", redis_server, poll_seconds=0.1)
    here.listen(redis_server)
    with standing_still(here):
        becomes(here.waffle.health, lambda h: not h.live, "it is found out")
        monkeypatch.setattr(concurrency, "threads_run_while_idle", lambda: False)
        assert here.waffle.health().live


@pytest.mark.usefixtures("_soon_stands_still")
def test_a_listener_that_may_wait_for_sql_is_alive(
    apps: Apps, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it is known that SQL does not answer, too."""
    here = Host(apps, "here", redis_server, poll_seconds=0.1)
    here.listen(redis_server)
    answers = threading.Event()
    peek = Store.peek
    monkeypatch.setattr(
        Store, "peek", lambda store: peek(store) if answers.wait(SOON_SECONDS) else None
    )

    def is_old() -> bool:
        assert here.waffle.health().live
        return (here.state.host.heartbeat_age_seconds() or 0) > 1.5

    wait_until(is_old, SOON_SECONDS, "it has not turned for long")
    assert here.state.host.sql_failure_age_seconds() is None
    answers.set()


def test_a_listener_that_waits_for_sql_is_alive(
    apps: Apps, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets some time to turn, too, once SQL has answered others again."""
    monkeypatch.setattr(health, "STANDSTILL_SECONDS", 3.0)
    here = Host(apps, "here", redis_server, poll_seconds=0.1)
    here.listen(redis_server)
    answers, answers_all = threading.Event(), threading.Event()
    peek = Store.peek

    def answer_late(store: Store) -> Any:
        is_listener = threading.current_thread().name == "waffle-listener"
        (answers_all if is_listener else answers).wait(SOON_SECONDS)
        return peek(store)

    monkeypatch.setattr(Store, "peek", answer_late)
    asked: list[Health] = []

    def ask() -> Health:
        asked.append(here.waffle.health())
        return asked[-1]

    def is_silent() -> bool:
        age = here.state.host.heartbeat_age_seconds()
        return "has not answered this host for" in str(ask()) and age is not None and age > 3.5

    wait_until(is_silent, SOON_SECONDS, "it is named that SQL does not answer")
    answers.set()
    becomes(ask, lambda h: "has not answered" not in str(h), "SQL answers")
    assert all(found.ready and found.live for found in asked)
    becomes(ask, lambda h: not h.live, "the listener stands still")
    answers_all.set()
    assert becomes(ask, lambda h: not h.reasons, "all is well again") == WELL


def test_a_listener_that_has_ended_is_started_again(apps: Apps, redis_server: RedisServer) -> None:
    here = Host(apps, "here", redis_server)
    here.listen(redis_server)
    assert here.state.environment is not None
    here.state.environment.stop(SOON_SECONDS)
    assert not here.still_listens()
    assert here.waffle.health().live
    assert here.still_listens()


def test_a_listener_that_cannot_be_started_is_not_alive(
    apps: Apps, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Host(apps, "here", redis_server)

    def refuse(_thread: threading.Thread) -> None:
        message = "can't start new thread"
        raise RuntimeError(message)

    with monkeypatch.context() as full:
        full.setattr(threading.Thread, "start", refuse)
        found = here.waffle.health()
        assert (found.ready, found.live) == (True, False)
        assert "has ended, and cannot be started again" in found.reasons[0]
    assert becomes(here.waffle.health, lambda h: not h.reasons, "it listens") == WELL


@pytest.mark.parametrize(
    "config", [{"WAFFLE_MULTIPROC": False}, {"WAFFLE_MULTIPROC": True, "WAFFLE_LISTENER": "none"}]
)
@pytest.mark.usefixtures("_soon_stands_still")
def test_where_no_listener_is_to_run_none_is_missed(apps: Apps, config: dict[str, Any]) -> None:
    app, waffle = apps(WAFFLE_CONFS=CONFS, WAFFLE_POLL_SECONDS=0.1, **config)
    assert waffle.health() == WELL
    state_of(app).host.beat()  # a listener that ran here before
    here = state_of(app)
    wait_until(
        lambda: (here.host.heartbeat_age_seconds() or 0) > 0.7,
        SOON_SECONDS,
        "the listener has not turned for long",
    )
    assert waffle.health() == WELL


@pytest.mark.usefixtures("_soon_stands_still")
def test_a_listener_that_has_never_turned_is_named_and_all_is_alive(
    apps: Apps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a set-up cannot work as meant, and another start changes nothing."""
    here = Host(apps, "here", poll_seconds=0.1)
    monkeypatch.setattr(here.state.loop, "run", lambda _moved, stop, _turned: stop.wait())
    here.listen()
    wait_until(lambda: here.state.adopted_seconds_ago() > 0.7, SOON_SECONDS, "it has had time")
    found = here.waffle.health()
    assert (found.ready, found.live) == (True, True)
    assert "No listener runs on this host" in found.reasons[0]


def test_a_callback_that_hangs_is_named_and_all_is_alive(
    apps: Apps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("uwsgi_waffle.ops.status.SLOW_CALLBACK_SECONDS", 0.1)
    _, waffle = apps(WAFFLE_CONFS=CONFS)
    ends = threading.Event()
    waffle.on_change("SIZE")(lambda: ends.wait(SOON_SECONDS))
    waffle.health()
    waffle.update({"SIZE": 2})
    found = becomes(waffle.health, lambda h: bool(h.reasons), "it is named")
    assert (found.ready, found.live) == (True, True)
    assert "A callback has been running" in found.reasons[0]
    assert "SIZE" not in found.reasons[0]
    ends.set()
