"""Reads: from one snapshot, and from nothing else."""

from __future__ import annotations

import contextlib
import contextvars
import fcntl
import sqlite3
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask, Response, copy_current_request_context, stream_with_context
from pydantic import Field
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.test import Client

from tests.conftest import Apps, state_of
from tests.support.waiting import NEVER_SECONDS
from uwsgi_waffle import InvalidSetting, UnknownSetting, WaffleConf, WaffleError, WaffleSettings


class Settings(WaffleSettings):
    """Two settings that a test always sets to the same."""

    A: int = 0
    B: int = 0
    NAMES: list[str] = Field(default_factory=list)


Made = tuple[Flask, WaffleConf[Any]]


@pytest.fixture
def made(apps: Apps) -> Made:
    """Give an application that does not poll during the test."""
    return apps(Settings, WAFFLE_POLL_SECONDS=NEVER_SECONDS)


@contextlib.contextmanager
def forbidden_io(app: Flask, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Collect statements, lock SQLite exclusively, and have every lock of the package fail."""
    state = state_of(app)
    seen: list[str] = []

    class NoLock:
        def __enter__(self) -> None:
            seen.append("a lock")

        def __exit__(self, *_: object) -> None:
            pass

        def acquire(self, **_: object) -> bool:
            seen.append("a lock")
            return False

    engine = state.store.database.engine
    sa.event.listen(engine, "engine_connect", lambda _: seen.append("a connection"))
    state.serving._lock = NoLock()  # type: ignore[assignment]  # noqa: SLF001  replaced for good
    state._queue._lock = NoLock()  # type: ignore[assignment]  # noqa: SLF001
    monkeypatch.setattr(fcntl, "flock", lambda *_: seen.append("a lock"))
    path = state.config.database_uri.removeprefix("sqlite:///")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        yield seen


def test_a_read_touches_no_database_no_lock_and_writes_nothing(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, waffle = made
    app.add_url_rule("/", "read", lambda: f"{waffle.settings.A} {waffle.revision}")
    waffle.update({"A": 5})
    client = app.test_client()
    client.get("/")
    before = bytes(state_of(app).host.words)
    with forbidden_io(app, monkeypatch) as seen:
        for _ in range(50):
            assert client.get("/").text == "5 1"
            assert (waffle.settings.A, waffle.revision, app.config["A"]) == (5, 1, 5)
    assert seen == []
    assert bytes(state_of(app).host.words) == before


def test_a_request_sees_one_snapshot_for_its_whole_life(made: Made) -> None:
    """Although another thread updates during it; `app.config` is the process's and follows."""
    app, waffle = made

    @app.get("/")
    def view() -> dict[str, int]:
        first = waffle.settings
        thread = threading.Thread(target=waffle.update, args=({"A": 7, "B": 7},))
        thread.start()
        thread.join()
        assert waffle.settings is first
        return {"A": waffle.settings.A, "revision": waffle.revision, "config": app.config["A"]}

    client = app.test_client()
    assert client.get("/").json == {"A": 0, "revision": 0, "config": 7}
    assert waffle.settings.A == 7
    assert client.get("/").json == {"A": 7, "revision": 1, "config": 7}


def test_a_request_that_updates_sees_the_change_in_the_next_one(made: Made) -> None:
    app, waffle = made

    @app.get("/")
    def view() -> str:
        waffle.update({"A": waffle.settings.A + 1})
        return f"{waffle.settings.A}"

    client = app.test_client()
    assert [client.get("/").text for _ in range(3)] == ["0", "1", "2"]


def test_a_streamed_response_sees_the_snapshot_of_its_request(made: Made) -> None:
    app, waffle = made

    @app.get("/")
    def view() -> Response:
        def parts() -> Iterator[str]:
            for _ in range(3):
                yield f"{waffle.settings.A}/{waffle.revision} "
                waffle.update({"A": waffle.settings.A + 10})

        return Response(stream_with_context(parts()))

    assert app.test_client().get("/", buffered=False).text == "0/0 0/0 0/0 "
    assert app.test_client().get("/").text.startswith("10/1 10/1 ")


@pytest.mark.parametrize("flask_has_another_variable", [False, True])
def test_a_thread_with_a_copy_of_the_request_sees_its_snapshot(
    apps: Apps, monkeypatch: pytest.MonkeyPatch, flask_has_another_variable: bool
) -> None:
    if flask_has_another_variable:
        monkeypatch.delattr("flask.globals._cv_request")
    app, waffle = apps(Settings, WAFFLE_POLL_SECONDS=NEVER_SECONDS)
    seen: list[int] = []

    @app.get("/")
    def view() -> str:
        @copy_current_request_context
        def with_it() -> None:
            seen.append(waffle.settings.A)

        waffle.update({"A": 5})
        for target in (with_it, lambda: seen.append(waffle.settings.A)):
            thread = threading.Thread(target=target)
            thread.start()
            thread.join()
        return ""

    app.test_client().get("/")
    assert seen == [0, 5]


def test_an_async_view_sees_its_snapshot(made: Made) -> None:
    app, waffle = made

    @app.get("/")
    async def view() -> str:
        waffle.update({"A": 5})
        return f"{waffle.settings.A}"

    assert [app.test_client().get("/").text for _ in range(2)] == ["0", "5"]


def test_nested_requests_each_see_their_own_snapshot(made: Made) -> None:
    app, waffle = made
    app.add_url_rule("/inner", "inner", lambda: f"{waffle.settings.A}")

    @app.get("/")
    def outer() -> str:
        waffle.update({"A": 5})
        inner = app.test_client().get("/inner").text
        return f"{inner} {waffle.settings.A}"

    assert app.test_client().get("/").text == "5 0"


def test_a_request_inside_another_does_not_change_the_outer_one_or_its_override(made: Made) -> None:
    app, waffle = made
    app.add_url_rule("/inner", "inner", lambda: f"{waffle.settings.A} {waffle.settings.B}")

    @app.get("/")
    def outer() -> str:
        with waffle.override(A=7):
            waffle.update({"B": 5})
            inner = app.test_client().get("/inner").text
            return f"{inner}, {waffle.settings.A} {waffle.settings.B}"

    client = app.test_client()
    assert [client.get("/inner").text, client.get("/").text] == ["0 0", "7 5, 7 0"]
    assert client.get("/inner").text == "0 5"
    assert (waffle.settings.A, waffle.settings.B) == (0, 5)


def test_requests_in_copies_of_a_context_do_not_disturb_each_other(made: Made) -> None:
    """As some servers run each request in a copy of a context in which one has run before."""
    app, waffle = made
    app.add_url_rule("/", "read", lambda: f"{waffle.settings.A}")
    entered, leave = threading.Event(), threading.Event()
    seen: list[str] = []

    @app.get("/slow")
    def slow() -> str:
        before = waffle.settings.A
        entered.set()
        assert leave.wait(10)
        return f"{before} {waffle.settings.A}"

    def in_a_copy(path: str) -> threading.Thread:
        def send() -> None:
            seen.append(app.test_client().get(path).text)

        thread = threading.Thread(target=contextvars.copy_context().run, args=[send])
        thread.start()
        return thread

    assert app.test_client().get("/").text == "0"
    first = in_a_copy("/slow")
    assert entered.wait(10)
    waffle.update({"A": 5})
    in_a_copy("/").join()
    assert waffle.settings.A == 5
    leave.set()
    first.join()
    assert seen == ["5", "0 0"]
    assert app.test_client().get("/").text == "5"


def test_readers_in_threads_never_see_a_mix(made: Made) -> None:
    app, waffle = made
    app.add_url_rule("/", "read", lambda: f"{waffle.settings.A} {waffle.settings.B}")
    stop = threading.Event()
    wrong: list[str] = []

    def read() -> None:
        client = app.test_client()
        seen = 0
        while not stop.is_set():
            first, second = map(int, client.get("/").text.split())
            settings = waffle.settings
            if first != second or first < seen or settings.A != settings.B:
                wrong.append(f"{first} {second} {seen} {settings}")
            seen = first

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for value in range(1, 21):
        waffle.update({"A": value, "B": value})
        assert app.test_client().get("/").text == f"{value} {value}"
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_two_processes_of_a_host_see_an_update_without_redis_or_polling(apps: Apps) -> None:
    """Here two applications on one snapshot file, which is all that processes share."""
    _, writer = apps(Settings, WAFFLE_POLL_SECONDS=NEVER_SECONDS)
    app, reader = apps(Settings, WAFFLE_POLL_SECONDS=NEVER_SECONDS)
    places = (contextlib.nullcontext, app.app_context, app.test_request_context)
    for value in range(1, 21):
        writer.update({"A": value})
        with places[value % 3]():
            assert (reader.settings.A, reader.revision) == (value, value)
        assert app.config["A"] == value


def test_a_read_outside_a_request_is_two_calls(made: Made) -> None:
    app, waffle = made
    called: list[str] = []
    _ = waffle.settings  # lists this process

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            called.append(frame.f_code.co_name)

    for place in (contextlib.nullcontext, app.app_context, app.test_request_context):
        with place():
            sys.setprofile(note)
            try:
                assert waffle.settings.A == 0
            finally:
                sys.setprofile(None)
    assert called == 3 * ["settings", "unpinned"]


def test_what_an_app_does_to_a_value_ends_with_the_snapshot(apps: Apps) -> None:
    """It never reaches what is stored, another process, or the next snapshot."""
    _, waffle = apps(Settings, WAFFLE_POLL_SECONDS=NEVER_SECONDS)
    elsewhere = apps(Settings, WAFFLE_POLL_SECONDS=NEVER_SECONDS)[1]
    for expected in ([], ["x"]):
        waffle.settings.NAMES.append("oops")
        assert waffle.update({"A": waffle.settings.A + 1}).changes.keys() == {"A"}
        assert waffle.settings.NAMES == elsewhere.settings.NAMES == expected
        given = ["x"]
        waffle.update({"NAMES": given})
        given.append("oops")
        assert waffle.settings.NAMES == ["x"]
    assert waffle.reset("NAMES").changes == {"NAMES": (["x"], [])}


# -- several applications --------------------------------------------------------------------------


def test_one_extension_serves_several_apps(apps: Apps) -> None:
    waffle = WaffleConf(settings=Settings)
    with pytest.raises(WaffleError, match="init_app"):
        _ = waffle.settings
    both = [apps.flask(host=name, WAFFLE_NAMESPACE=name) for name in ("first", "second")]

    def read_both() -> str:
        with both[1].app_context():
            other = waffle.settings.A
        return f"{waffle.settings.A} {other}"

    for number, app in enumerate(both):
        apps.init(waffle, app)
        app.add_url_rule("/both", "both", read_both)
        app.add_url_rule("/", "read", lambda: f"{waffle.settings.A}")
        with app.app_context():
            waffle.update({"A": number + 1})
    with pytest.raises(WaffleError, match="several apps"):
        _ = waffle.settings
    assert [app.test_client().get("/").text for app in both] == ["1", "2"]
    assert both[0].test_client().get("/both").text == "1 2"
    with both[0].app_context(), waffle.override(A=9):
        assert [app.test_client().get("/").text for app in both] == ["9", "2"]


def test_an_extension_of_several_apps_is_not_at_hand_in_the_app_of_another_extension(
    apps: Apps,
) -> None:
    """A change would reach the other application's settings."""
    waffle = WaffleConf(settings=Settings)
    for name in ("first", "second"):
        apps.init(waffle, apps.flask(host=name, WAFFLE_NAMESPACE=name))
    foreign, other = apps(Settings, host="third", WAFFLE_NAMESPACE="third")
    with foreign.app_context():
        with pytest.raises(WaffleError, match="none of them is current"):
            waffle.update({"A": 5})
        assert other.settings.A == 0


def test_a_request_of_one_app_may_ask_another_app_of_the_process(apps: Apps) -> None:
    (first_app, first), (second_app, second) = (
        apps(Settings, host=name, WAFFLE_NAMESPACE=name) for name in ("first", "second")
    )
    first.update({"A": 1})
    second.update({"A": 2})
    for app in (first_app, second_app):
        app.add_url_rule("/", "read", lambda: f"{first.settings.A} {second.settings.A}")
    mounted = Client(DispatcherMiddleware(first_app, {"/second": second_app}))
    assert mounted.get("/").text == mounted.get("/second/").text == "1 2"


def test_a_request_that_lasts_can_follow_the_newest_settings(made: Made) -> None:
    app, waffle = made

    @app.get("/")
    def view() -> Response:
        waffle.update({"A": 1})
        seen = [waffle.settings.A, waffle.follow(), waffle.settings.A]

        def parts() -> Iterator[str]:
            yield f"{seen} {waffle.settings.A} "
            waffle.update({"A": 2})
            yield f"{waffle.settings.A} {waffle.follow()} {waffle.settings.A}"

        return Response(stream_with_context(parts()))

    assert app.test_client().get("/").text == "[0, 1, 1] 1 1 2 2"


def test_a_kept_context_of_a_test_client_follows_when_it_is_told(made: Made) -> None:
    app, waffle = made
    app.add_url_rule("/", "read", lambda: f"{waffle.settings.A}")
    with app.test_client() as client:
        assert client.get("/").text == "0"
        waffle.update({"A": 1})
        assert waffle.settings.A == 0
        assert (waffle.follow(), waffle.settings.A) == (1, 1)
    assert (waffle.follow(), waffle.settings.A) == (1, 1)


# -- override --------------------------------------------------------------------------------------


def test_an_override_holds_in_its_context_only_and_is_stored_nowhere(made: Made) -> None:
    app, waffle = made
    app.add_url_rule("/", "read", lambda: f"{waffle.settings.A} {waffle.settings.B}")
    elsewhere: list[int] = []
    with waffle.override(A=5):
        with waffle.override(B=6):
            assert app.test_client().get("/").text == "5 6"
            thread = threading.Thread(target=lambda: elsewhere.append(waffle.settings.A))
            thread.start()
            thread.join()
        assert (waffle.settings.A, waffle.settings.B, waffle.revision) == (5, 0, 0)
        assert app.config["A"] == 0
        waffle.update({"B": 9})
        assert app.test_client().get("/").text == "5 9"
    assert (elsewhere, waffle.settings.A) == ([0], 0)
    assert [change.name for change in waffle.history()] == ["B"]


def test_an_override_within_a_request_ends_with_its_block(made: Made) -> None:
    app, waffle = made

    @app.get("/")
    def view() -> str:
        with waffle.override(A=5):
            inside = waffle.settings.A
        return f"{inside} {waffle.settings.A}"

    assert app.test_client().get("/").text == "5 0"


def test_an_override_is_validated_and_leaves_nothing_behind(made: Made) -> None:
    _, waffle = made
    with pytest.raises(InvalidSetting), waffle.override(A="many"):
        pass
    with pytest.raises(UnknownSetting), waffle.override(C=1):
        pass
    assert waffle.settings.A == 0


def test_an_override_holds_in_an_async_view(made: Made) -> None:
    app, waffle = made

    @app.get("/")
    async def view() -> str:
        with waffle.override(A=5):
            inside = waffle.settings.A
        return f"{inside} {waffle.settings.A}"

    assert app.test_client().get("/").text == "5 0"


def test_an_override_holds_in_a_streamed_response(made: Made) -> None:
    app, waffle = made

    @app.get("/")
    def view() -> Response:
        def parts() -> Iterator[str]:
            with waffle.override(A=5):
                yield f"{waffle.settings.A} "
            yield f"{waffle.settings.A}"

        return Response(stream_with_context(parts()))

    assert app.test_client().get("/").text == "5 0"


def test_an_override_holds_in_the_context_that_a_test_client_keeps(made: Made) -> None:
    app, waffle = made
    app.add_url_rule("/", "read", lambda: f"{waffle.settings.A}")
    with app.test_client() as client:
        assert client.get("/").text == "0"
        with waffle.override(A=5):
            assert waffle.settings.A == 5
        assert waffle.settings.A == 0


# -- Flask-WaffleConf ------------------------------------------------------------------------------


def test_the_three_methods_of_flask_waffleconf(apps: Apps) -> None:
    app, waffle = apps(Settings, WAFFLE_POLL_SECONDS=NEVER_SECONDS)
    state = app.extensions["waffleconf"]
    assert state.parse_conf() == {"A": 0, "B": 0, "NAMES": []}
    state.update_db({"A": 4})
    assert state.parse_conf(["A"]) == {"A": 4}
    assert app.config["A"] == waffle.settings.A == 4
    elsewhere, there = apps(Settings, host="there", WAFFLE_POLL_SECONDS=NEVER_SECONDS)
    assert there.settings.A == 4
    waffle.update({"A": 5})
    assert there.settings.A == 4
    elsewhere.extensions["waffleconf"].update_conf()
    assert there.settings.A == elsewhere.config["A"] == 5
    with pytest.raises(UnknownSetting):
        state.parse_conf(["C"])
