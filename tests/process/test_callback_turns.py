"""Where callbacks run: beside requests, in order, in each process, and held up by nothing."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conftest import Apps, state_of
from tests.process.conftest import Settings
from tests.support.soak import times
from tests.support.waiting import SOON_SECONDS, wait_until
from uwsgi_waffle.process import callbacks
from uwsgi_waffle.server import concurrency

pytestmark = pytest.mark.usefixtures("patience")

USUAL_PATIENCE_SECONDS = callbacks.PATIENCE_SECONDS


@pytest.fixture
def _usual_patience(patience: None, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    """Leave it at half a second, for a callback that takes longer."""
    monkeypatch.setattr(callbacks, "PATIENCE_SECONDS", USUAL_PATIENCE_SECONDS)


@pytest.fixture
def stuck(_usual_patience: None) -> Iterator[threading.Event]:
    """Give what a callback waits for until the test ends."""
    event = threading.Event()
    yield event
    event.set()


def test_a_stuck_callback_holds_up_no_update_no_read_and_no_request(
    apps: Apps, stuck: threading.Event
) -> None:
    """They wait for half a second in all; what has changed since is called back later, in turn."""
    app, waffle = apps(Settings)
    _, elsewhere = apps(Settings)
    app.add_url_rule("/", "read", lambda: f"{waffle.settings.A} {app.config['A']}")
    seen: list[str] = []

    @waffle.on_change("A")
    def wait(new: int) -> None:
        seen.append(f"{new} begins")
        assert stuck.wait(SOON_SECONDS)
        seen.append(f"{new} ends")

    began = time.monotonic()
    for value in range(1, 21):
        (waffle if value % 2 else elsewhere).update({"A": value})
        assert app.test_client().get("/").text == f"{value} {value}"
    assert time.monotonic() - began < 5.0, "not half a second for each"
    assert seen == ["1 begins"]
    stuck.set()
    wait_until(lambda: len(seen) == 40, SOON_SECONDS, "all callbacks have run")
    assert seen == [f"{n} {what}" for n in range(1, 21) for what in ("begins", "ends")]


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
