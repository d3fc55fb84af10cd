"""`on_change` and `settings_changed`: after the swap, in order, and stopping nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask import Flask, current_app

from tests.conftest import Apps, state_of
from tests.support.soak import times
from tests.support.waiting import SOON_SECONDS, wait_until
from uwsgi_waffle import UnknownSetting, WaffleConf, WaffleSettings, settings_changed
from uwsgi_waffle.process import callbacks
from uwsgi_waffle.server import concurrency

USUAL_PATIENCE_SECONDS = callbacks.PATIENCE_SECONDS


class Settings(WaffleSettings):
    """Two settings to change."""

    A: int = 0
    B: int = 0


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have callbacks that take no time awaited however busy the machine is."""
    monkeypatch.setattr(callbacks, "PATIENCE_SECONDS", SOON_SECONDS)


@pytest.fixture
def _usual_patience(_patience: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave it at half a second, for a callback that takes longer."""
    monkeypatch.setattr(callbacks, "PATIENCE_SECONDS", USUAL_PATIENCE_SECONDS)


def test_a_callback_is_called_with_as_much_as_it_takes(apps: Apps) -> None:
    app, waffle = apps(Settings)
    seen: list[object] = []

    @waffle.on_change("A")
    def both(old: int, new: int) -> None:
        seen.append((old, new))

    @waffle.on_change("A")
    def new_only(new: int) -> None:
        seen.append(new)

    @waffle.on_change("A")
    def nothing() -> None:
        seen.append("changed")

    @waffle.on_change("A")
    def anything(*arguments: int) -> None:
        seen.append(arguments)

    @waffle.on_change("A", "B")
    def either() -> None:
        seen.append(current_app._get_current_object() is app)  # type: ignore[attr-defined]  # noqa: SLF001

    waffle.update({"A": 1})
    assert seen == [(0, 1), 1, "changed", (0, 1), True]
    seen.clear()
    waffle.update({"A": 1, "B": 2})
    assert seen == [True]
    with pytest.raises(TypeError, match="cannot be called with"):
        waffle.on_change("A")(lambda a, b, c: (a, b, c))


def test_a_callback_of_what_is_not_declared_is_an_error(apps: Apps) -> None:
    _, waffle = apps(Settings)
    with pytest.raises(UnknownSetting, match="Unknown setting C"):
        waffle.on_change("C")
    early: WaffleConf[Any] = WaffleConf(settings=Settings)
    early.on_change("C")(lambda: None)
    with pytest.raises(UnknownSetting):
        early.init_app(apps.flask(host="there"))


def test_the_signal_names_the_app_the_changes_and_the_revision(apps: Apps) -> None:
    app, waffle = apps(Settings)
    other, _ = apps(Settings, host="there", WAFFLE_NAMESPACE="other")
    seen: list[object] = []

    def receive(sender: Flask, changes: object, revision: int) -> None:
        seen.append((sender, dict(changes), revision))  # type: ignore[call-overload]

    def receive_other(sender: Flask, **_: object) -> None:
        seen.append(sender)

    with (
        settings_changed.connected_to(receive, app),
        settings_changed.connected_to(receive_other, other),
    ):
        waffle.update({"A": 1, "B": 2})
        waffle.update({"A": 1})
    assert seen == [(app, {"A": (0, 1), "B": (0, 2)}, 1)]


def test_a_callback_sees_the_new_settings_also_in_a_request(apps: Apps) -> None:
    """The request that changes them keeps the old ones, and a test's override is its own."""
    app, waffle = apps(Settings)
    seen: list[int] = []
    waffle.on_change("A")(lambda: seen.append(waffle.settings.A))

    @app.get("/")
    def view() -> str:
        waffle.update({"A": waffle.settings.A + 1})
        return f"{waffle.settings.A}"

    assert app.test_client().get("/").text == "0"
    with waffle.override(A=50):
        waffle.update({"A": 2})
        assert waffle.settings.A == 50
    assert seen == [1, 2]


@pytest.mark.parametrize("error", [ValueError("x"), SystemExit(1), KeyboardInterrupt()])
def test_an_error_in_a_callback_is_logged_and_stops_nothing(
    apps: Apps, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    app, waffle = apps(Settings)
    seen: list[object] = []

    @waffle.on_change("A")
    def fail() -> None:
        raise error

    def fail_too(_: Flask, **__: object) -> None:
        raise error

    def receive(_: Flask, revision: int, **__: object) -> None:
        seen.append(revision)

    waffle.on_change("A")(seen.append)
    with settings_changed.connected_to(fail_too, app), settings_changed.connected_to(receive, app):
        assert waffle.update({"A": 1}).revision == 1
        assert app.test_client().get("/").status_code == 404
    assert seen == [1, 1]
    assert "on_change('A') failed at revision 1" in caplog.text
    assert "a receiver of settings_changed failed at revision 1" in caplog.text
    assert (waffle.settings.A, app.config["A"]) == (1, 1)


def test_a_teardown_that_raises_fails_neither_the_update_nor_a_request(
    apps: Apps, caplog: pytest.LogCaptureFixture
) -> None:
    app, waffle = apps(Settings)
    _, elsewhere = apps(Settings)
    fails = [True]

    @app.teardown_appcontext
    def fail(_: object) -> None:
        if fails:
            raise RuntimeError

    app.add_url_rule("/", "read", lambda: f"{waffle.settings.A}")
    waffle.on_change("A")(lambda: None)
    waffle.update({"A": 1})
    assert "callbacks of revision 1 were cut short" in caplog.text
    elsewhere.update({"A": 2})
    assert waffle.settings.A == 2
    fails.clear()
    assert app.test_client().get("/").text == "2"


class NotAnException(BaseException):
    """Such as `gevent.Timeout`, `GreenletExit` or `asyncio.CancelledError`."""


def test_what_is_no_exception_stops_neither_an_update_nor_other_callbacks(
    apps: Apps, caplog: pytest.LogCaptureFixture
) -> None:
    _, waffle = apps(Settings)
    seen: list[int] = []

    @waffle.on_change("A")
    def ends_all() -> None:
        raise NotAnException

    waffle.on_change("A")(seen.append)
    waffle.update({"A": 1})
    assert seen == [1]
    assert "on_change('A') failed at revision 1" in caplog.text


def test_a_callback_may_change_a_setting_itself(apps: Apps) -> None:
    app, waffle = apps(Settings)
    seen: list[tuple[str, int, int]] = []

    @waffle.on_change("A")
    def follow(new: int) -> None:
        seen.append(("A", new, waffle.revision))
        done = waffle.update({"B": 10 * new})
        seen.append(("updated", done.revision, waffle.settings.B))

    waffle.on_change("B")(lambda new: seen.append(("B", new, waffle.revision)))
    waffle.update({"A": 1})
    assert seen == [("A", 1, 1), ("updated", 2, 10), ("B", 10, 2)]
    assert app.config["B"] == 10


@pytest.fixture
def stuck(_usual_patience: None) -> Iterator[threading.Event]:
    """Give what a callback waits for until the test ends."""
    event = threading.Event()
    yield event
    event.set()


def test_a_stuck_callback_holds_up_no_update_no_read_and_no_request(
    apps: Apps, stuck: threading.Event
) -> None:
    """They wait for half a second in all, and what has changed since is called back later."""
    app, waffle = apps(Settings)
    _, elsewhere = apps(Settings)
    app.add_url_rule("/", "read", lambda: f"{waffle.settings.A} {app.config['A']}")
    seen: list[int] = []

    @waffle.on_change("A")
    def wait(new: int) -> None:
        assert stuck.wait(SOON_SECONDS)
        seen.append(new)

    began = time.monotonic()
    for value in range(1, 21):
        (waffle if value % 2 else elsewhere).update({"A": value})
        assert app.test_client().get("/").text == f"{value} {value}"
    assert time.monotonic() - began < 5.0, "not half a second for each"
    assert seen == []
    stuck.set()
    wait_until(lambda: len(seen) == 20, SOON_SECONDS, "all callbacks have run")
    assert seen == list(range(1, 21))


@pytest.mark.parametrize("is_woken", [False, True])
def test_a_request_that_sees_a_change_begins_after_its_callbacks(
    apps: Apps, *, is_woken: bool
) -> None:
    """Also where a signal, or the listener, has brought the change a moment before."""
    app, waffle = apps(Settings)
    _, elsewhere = apps(Settings)
    state, done = state_of(app), []

    @waffle.on_change("A")
    def note(new: int) -> None:
        time.sleep(0.1)
        done.append(new)

    app.add_url_rule("/", "read", lambda: f"{waffle.settings.A} {done[-1]}")
    for value in range(1, 1 + times(5, 100)):
        elsewhere.update({"A": value})
        if is_woken:
            waking = threading.Thread(target=state.serving.wake)
            waking.start()
            wait_until(lambda: state.serving.current.revision == value, SOON_SECONDS, "it serves")  # noqa: B023  called here
        with ThreadPoolExecutor(3) as pool:
            answers = [pool.submit(lambda: app.test_client().get("/").text) for _ in range(3)]
        assert [answer.result() for answer in answers] == [f"{value} {value}"] * 3
        if is_woken:
            waking.join()


def test_a_callback_waits_for_no_callback(apps: Apps) -> None:
    """It may read and change settings; else it would wait for itself."""
    _, waffle = apps(Settings)
    _, elsewhere = apps(Settings)
    seen: list[tuple[str, int]] = []

    @waffle.on_change("A")
    def change(new: int) -> None:
        if new == 1:
            elsewhere.update({"A": 2})
            seen.append(("read", waffle.settings.A))
            waffle.update({"B": 3})
            seen.append(("read", waffle.settings.B))

    waffle.on_change("B")(lambda new: seen.append(("B", new)))
    waffle.update({"A": 1})
    assert seen == [("read", 2), ("read", 3), ("B", 3)]


@pytest.mark.usefixtures("_usual_patience")
def test_a_callback_may_wait_for_a_thread_that_changes_settings(apps: Apps) -> None:
    """That thread waits for the callback, but not for ever."""
    _, waffle = apps(Settings)
    seen: list[int] = []

    @waffle.on_change("A")
    def change() -> None:
        thread = threading.Thread(target=waffle.update, args=({"B": 4},))
        thread.start()
        thread.join()
        seen.append(waffle.settings.B)

    waffle.on_change("B")(lambda new: seen.append(-new))
    waffle.update({"A": 1})
    wait_until(lambda: len(seen) == 2, SOON_SECONDS, "both callbacks have run")
    assert seen == [4, -4]


def test_a_process_forked_while_a_callback_runs_is_called_back_itself(
    apps: Apps, stuck: threading.Event
) -> None:
    """Its memory has what the parent served before, as far as callbacks have changed it."""
    _, waffle = apps(Settings)
    called: list[tuple[int, int]] = []
    parent, started = os.getpid(), threading.Event()

    @waffle.on_change("A")
    def note(old: int, new: int) -> None:
        if os.getpid() == parent:
            started.set()
            stuck.wait(SOON_SECONDS)
        called.append((old, new))

    thread = threading.Thread(target=lambda: [waffle.update({"A": value}) for value in (1, 2)])
    thread.start()
    assert started.wait(SOON_SECONDS)
    thread.join()
    child = os.fork()
    if child == 0:
        try:
            # Before it reads a setting, which would start them as well.
            wait_until(lambda: called == [(0, 1), (1, 2)], SOON_SECONDS, "the child is called back")
            assert waffle.settings.A == 2
        except BaseException:  # noqa: BLE001  # the child must not run on as a second pytest
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert called == []


def test_a_process_forked_by_a_callback_does_not_run_it_again(apps: Apps) -> None:
    """Such as the workers of a pool that is made anew; what changes later they are called for."""
    _, waffle = apps(Settings)
    _, elsewhere = apps(Settings)
    called: list[int] = []
    codes: list[int] = []
    parent = os.getpid()

    @waffle.on_change("A")
    def fork(new: int) -> None:
        called.append(new)
        if os.getpid() != parent:
            return
        child = os.fork()
        if child:
            codes.append(os.waitpid(child, 0)[1])
            return
        try:
            assert new == waffle.settings.A
            elsewhere.update({"A": 2})
            assert waffle.settings.A == 2
            wait_until(lambda: called == [1, 2], SOON_SECONDS, "the child is called back")
        except BaseException:  # noqa: BLE001  # the child must not run on as a second pytest
            os._exit(1)
        os._exit(0)

    waffle.update({"A": 1})
    wait_until(lambda: codes, SOON_SECONDS, "the child has ended")
    assert codes == [0]
    assert called == [1]


def test_the_list_of_processes_shows_which_callback_runs_and_since_when(
    apps: Apps, stuck: threading.Event
) -> None:
    app, waffle = apps(Settings)
    waffle.on_change("A")(lambda: stuck.wait(SOON_SECONDS))

    def running() -> tuple[str, float]:
        (process,) = state_of(app).host.slots.living()
        return process.calling, process.calling_since

    assert waffle.settings.A == 0  # it is listed from its first read on
    assert running() == ("", 0.0)
    began = time.time()
    waffle.update({"A": 1})
    what, since = running()
    assert what == "on_change('A')"
    assert began <= since <= time.time()
    stuck.set()
    wait_until(lambda: running() == ("", 0.0), SOON_SECONDS, "it has ended")


def test_callbacks_run_at_once_where_threads_stand_still_between_requests(
    apps: Apps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long they take, as in uWSGI before 2.0.27 without `enable-threads`."""
    monkeypatch.setattr(concurrency, "threads_run_while_idle", lambda: False)
    app, waffle = apps(Settings)
    _, elsewhere = apps(Settings)
    seen: list[int] = []

    @waffle.on_change("A")
    def note(new: int) -> None:
        assert threading.current_thread() is threading.main_thread()
        seen.append(new)

    waffle.update({"A": 1})
    assert seen == [1]
    elsewhere.update({"A": 2})
    state_of(app).serving.wake()
    assert seen == [1, 2]


@pytest.fixture
def _python_handles_sigint() -> Iterator[None]:
    """Have Ctrl-C raise KeyboardInterrupt, as it does where no server handles it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_python_handles_sigint")
def test_ctrl_c_ends_the_program_and_not_the_callback_alone(
    apps: Apps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can only come where a callback runs in the main thread; later changes are called for."""
    monkeypatch.setattr(concurrency, "threads_run_while_idle", lambda: False)
    app, waffle = apps(Settings)
    seen: list[int] = []

    @waffle.on_change("A")
    def note(new: int) -> None:
        if new == 1:
            signal.raise_signal(signal.SIGINT)
        seen.append(new)

    with pytest.raises(KeyboardInterrupt):
        waffle.update({"A": 1})
    assert waffle.settings.A == app.config["A"] == 1
    waffle.update({"A": 2})
    assert seen == [2]


@pytest.mark.usefixtures("_usual_patience")
def test_a_slow_callback_holds_up_the_next_one_and_no_update(apps: Apps) -> None:
    _, waffle = apps(Settings)
    started, second_returned = threading.Event(), threading.Event()
    seen: list[str] = []

    @waffle.on_change("A")
    def slow(new: int) -> None:
        seen.append(f"{new} begins")
        if new == 1:
            started.set()
            assert second_returned.wait(30)
        seen.append(f"{new} ends")

    thread = threading.Thread(target=waffle.update, args=({"A": 1},))
    thread.start()
    assert started.wait(30)
    assert waffle.update({"A": 2}).revision == 2
    assert waffle.settings.A == 2
    second_returned.set()
    thread.join()
    wait_until(lambda: len(seen) == 4, SOON_SECONDS, "both have run")
    assert seen == ["1 begins", "1 ends", "2 begins", "2 ends"]


def test_callbacks_run_in_the_order_of_revisions_whichever_thread_writes(apps: Apps) -> None:
    """A process is called back once for each of its steps, from value to value without a gap."""
    _, waffle = apps(Settings)
    called: list[tuple[int, int]] = []
    running: list[bool] = []
    overlapping: list[bool] = []

    @waffle.on_change("A")
    def note(old: int, new: int) -> None:
        overlapping.extend(running)
        running.append(True)
        called.append((old, new))
        running.pop()

    def write(number: int) -> None:
        for step in range(25):
            waffle.update({"A": 1 + number + 10 * step})

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    values = [change.new for change in reversed(waffle.history(limit=None))]
    assert len(values) == 150
    assert called[-1][1] == values[-1] == waffle.settings.A
    assert [old for old, _ in called] == [0, *(new for _, new in called[:-1])]
    positions = [values.index(new) for _, new in called]
    assert positions == sorted(positions)
    assert overlapping == []


def test_async_callbacks_run_to_their_end(apps: Apps) -> None:
    """As async views do in Flask; they see the new settings, and the application."""
    app, waffle = apps(Settings)
    seen: list[object] = []

    @waffle.on_change("A")
    async def changed(old: int, new: int) -> None:
        await asyncio.sleep(0)
        seen.append((old, new, waffle.settings.A, current_app.name))

    @settings_changed.connect_via(app)
    async def received(sender: Flask, changes: Any, revision: int) -> None:
        await asyncio.sleep(0)
        seen.append((sender is app, changes, revision))

    waffle.update({"A": 1})
    assert seen == [(0, 1, 1, "tests"), (True, {"A": (0, 1)}, 1)]


def test_an_async_callback_that_raises_is_logged(
    apps: Apps, caplog: pytest.LogCaptureFixture
) -> None:
    _, waffle = apps(Settings)

    @waffle.on_change("A")
    async def fail() -> None:
        raise RuntimeError

    waffle.update({"A": 1})
    assert "on_change('A') failed at revision 1" in caplog.text
    assert "RuntimeError" in caplog.text


def test_a_callback_without_the_name_of_a_setting_is_refused(apps: Apps) -> None:
    """It would never be called; before there is an application, nothing else would tell."""
    waffle = WaffleConf(settings=Settings)
    with pytest.raises(TypeError, match=r"as in @waffle.on_change\('POOL_SIZE'\)"):
        waffle.on_change()
    with pytest.raises(TypeError, match="takes names of settings"):
        waffle.on_change(print)  # type: ignore[arg-type]  # without parentheses
    apps.init(waffle, apps.flask())
    waffle.on_change("A")(print)


def test_a_callback_is_called_for_values_that_a_type_distinguishes(apps: Apps) -> None:
    """Python takes 1 and True for equal, at any depth; each is a revision."""

    class Distinguishing(WaffleSettings):
        ONE: int | bool | float = 1
        MANY: tuple[int | bool, ...] = (1,)

    _, waffle = apps(Distinguishing)
    _, there = apps(Distinguishing, host="there")
    seen: list[object] = []
    for extension in (waffle, there):
        extension.on_change("ONE", "MANY")(seen.append)
    done = waffle.update({"ONE": True, "MANY": [True]})
    assert done.changes == {"ONE": (1, True), "MANY": ((1,), (True,))}
    there.refresh()
    assert list(map(repr, seen)) == ["True", "(True,)"] * 2
    seen.clear()
    assert waffle.update({"ONE": True}).changes == {}
    assert seen == []
