"""`health`: whether a process is to get requests, and whether to start it anew."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydantic import Field, SecretStr

from tests.conftest import REDIS_PASSWORD, Apps, state_of
from tests.process.conftest import forbidden_io
from tests.support import RedisServer, wait_until
from tests.support.listening import CONFS, Host
from tests.support.waiting import NEVER_SECONDS, SOON_SECONDS
from uwsgi_waffle import Health, WaffleConf, WaffleSettings
from uwsgi_waffle.errors import StoreUnavailable
from uwsgi_waffle.ops import health
from uwsgi_waffle.server import concurrency
from uwsgi_waffle.sql.store import Store

WELL = Health(ready=True, live=True)


class Settings(WaffleSettings):
    """A number with a limit, and a secret."""

    SIZE: int = Field(1, le=1000)
    API_KEY: SecretStr = SecretStr("k3y")


def becomes(ask: Callable[[], Health], wanted: Callable[[Health], bool], what: str) -> Health:
    """Return the first health that is as wanted."""
    found: list[Health] = []

    def look() -> bool:
        found.append(ask())
        return wanted(found[-1])

    wait_until(look, SOON_SECONDS, what)
    return found[-1]


@contextlib.contextmanager
def sql_is_gone(apps: Apps) -> Iterator[None]:
    """Have a directory in the place of the database; connections that are open see it still."""
    path = apps.directory / "waffle.db"
    kept = path.rename(apps.directory / "kept.db") if path.exists() else None
    path.mkdir()
    yield
    path.rmdir()
    if kept is not None:
        kept.rename(path)


@pytest.fixture
def _soon_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count a listener as standing still after half a second."""
    monkeypatch.setattr(health, "STANDSTILL_SECONDS", 0.5)
    monkeypatch.setattr(health, "SEARCH_SECONDS", 0.5)


# -- ready ----------------------------------------------------------------------------------------


def test_a_process_that_has_read_that_nothing_was_changed_yet_is_ready(apps: Apps) -> None:
    _, waffle = apps(WAFFLE_CONFS=CONFS)
    assert waffle.health() == WELL


def test_a_process_that_has_read_that_there_are_no_tables_is_ready(apps: Apps) -> None:
    """SQL has answered that there are no settings yet."""
    _, waffle = apps(WAFFLE_CONFS=CONFS, WAFFLE_AUTO_CREATE=False)
    assert waffle.health() == WELL


def test_a_process_that_could_load_nothing_is_not_ready_until_sql_answers(apps: Apps) -> None:
    """It finds that out by itself, as no request comes to a process that is not ready."""
    with sql_is_gone(apps):
        _, waffle = apps(WAFFLE_CONFS=CONFS, WAFFLE_POLL_SECONDS=0.1)
        found = waffle.health()
        assert (found.ready, found.live) == (False, True)
        assert "has loaded no settings yet, and serves the declared defaults" in found.reasons[0]
        assert f"{apps.database_uri} has not answered this host yet" in found.reasons[1]
    assert becomes(waffle.health, lambda h: h.ready, "it is ready") == WELL


def test_the_last_known_good_of_the_host_is_ready_without_sql(apps: Apps) -> None:
    _, writer = apps(WAFFLE_CONFS=CONFS)
    writer.update({"SIZE": 5})
    with sql_is_gone(apps):
        _, waffle = apps(WAFFLE_CONFS=CONFS, WAFFLE_POLL_SECONDS=0.1)
        found = waffle.health()
        assert (waffle.settings.SIZE, found.ready, found.live) == (5, True, True)
        (reason,) = found.reasons
        assert reason.startswith(f"{apps.database_uri} has not answered this host for ")
        assert reason.endswith("The last known settings are served: revision 1.")
    assert becomes(waffle.health, lambda h: not h.reasons, "SQL answers") == WELL


def test_a_process_that_cannot_follow_its_host_is_not_ready(
    apps: Apps, monkeypatch: pytest.MonkeyPatch
) -> None:
    (app, waffle), (_, writer) = apps(WAFFLE_CONFS=CONFS), apps(WAFFLE_CONFS=CONFS)
    writer.update({"SIZE": 5})
    with monkeypatch.context() as broken:
        broken.setattr(state_of(app).serving, "catch_up", lambda: None)
        found = waffle.health()
        assert (found.ready, found.live) == (False, True)
        assert found.reasons == (
            "This process serves revision 0, and cannot take revision 1 of its host.",
        )
    assert waffle.health() == WELL


def test_refused_values_leave_a_process_ready_and_show_no_value(apps: Apps) -> None:
    """A change that one release refuses must not take all its processes out of service."""
    _, writer = apps(WAFFLE_CONFS={"SIZE": {"default": 1}, "API_KEY": {"default": 1}})
    writer.update({"SIZE": 98765, "API_KEY": 43210})
    _, waffle = apps(Settings)
    found = waffle.health()
    assert (found.ready, found.live) == (True, True)
    (reason,) = found.reasons
    assert "2 stored values" in reason
    assert not any(value in reason for value in ("98765", "43210", "k3y"))


def test_a_process_is_set_up_by_the_first_question(apps: Apps) -> None:
    """A probe may be all that comes to a process that was just forked."""
    app, waffle = apps(WAFFLE_CONFS=CONFS)
    assert not state_of(app).host.slots.is_registered
    assert waffle.health() == WELL
    assert state_of(app).host.slots.is_registered


def test_health_asks_nothing_of_what_is_known(apps: Apps, monkeypatch: pytest.MonkeyPatch) -> None:
    app, waffle = apps(Settings, WAFFLE_POLL_SECONDS=NEVER_SECONDS)
    assert waffle.health() == WELL
    with forbidden_io(app, monkeypatch) as seen:
        assert waffle.health() == WELL
    assert seen == []


# -- live -----------------------------------------------------------------------------------------


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


# -- never an error -------------------------------------------------------------------------------


def test_without_an_application_nothing_is_raised() -> None:
    found = WaffleConf().health()
    assert (found.ready, found.live) == (False, True)
    assert found.reasons == ("This WaffleConf has no app yet. Call init_app(app) first.",)


@pytest.mark.parametrize("error", [OSError("s3cret"), StoreUnavailable("s3cret", url="s3cret")])
def test_what_goes_wrong_is_a_reason_and_logged(
    apps: Apps,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    _, waffle = apps(WAFFLE_CONFS=CONFS)

    def fail(_state: object) -> Any:
        raise error

    monkeypatch.setattr(health, "own_host", fail)
    found = waffle.health()
    assert (found.ready, found.live) == (True, True)
    assert f"({type(error).__name__})" in found.reasons[0]
    assert "s3cret" not in str(found)
    assert "waffle: the health of this process cannot be told" in caplog.text


def test_no_reason_holds_the_password_of_the_database(apps: Apps) -> None:
    uri = "postgresql+psycopg://waffle:s3cret@127.0.0.1:1/none"
    _, waffle = apps(WAFFLE_CONFS=CONFS, WAFFLE_DATABASE_URI=uri)
    found = waffle.health()
    assert not found.ready
    assert "s3cret" not in str(found)
    assert "127.0.0.1:1/none" in str(found)
