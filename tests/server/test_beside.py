"""What runs beside a caller: in a thread that is used again, and that no fork meets."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

from tests.support import wait_until
from tests.support.waiting import SOON_SECONDS
from uwsgi_waffle.server import forks, resting
from uwsgi_waffle.server.concurrency import THREAD_NAME, run_beside
from uwsgi_waffle.server.resting import end_resting_threads


@pytest.fixture(autouse=True)
def none_rests() -> Iterator[None]:
    end_resting_threads()
    yield
    end_resting_threads()
    assert not threads()


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == THREAD_NAME]


def run(*, then_rest: bool = True) -> int:
    """Run something; return the thread that it ran in, once that rests."""
    found: list[int] = []
    ended = run_beside(lambda: found.append(threading.get_ident()))
    assert ended.wait(SOON_SECONDS)
    if then_rest:
        wait_until(lambda: len(resting._resting) == len(threads()), SOON_SECONDS, "it rests")  # noqa: SLF001
    return found[0]


def test_a_thread_is_used_again() -> None:
    assert len({run() for _ in range(10)}) == len(threads()) == 1
    assert run() != threading.get_ident()


def test_what_runs_at_once_has_a_thread_each_of_which_two_are_kept() -> None:
    run()
    proceed = threading.Event()

    def wait() -> None:
        proceed.wait(SOON_SECONDS)

    both = [run_beside(wait) for _ in range(3)]
    assert len(threads()) == 3
    assert not any(ended.wait(0) for ended in both)
    proceed.set()
    assert all(ended.wait(SOON_SECONDS) for ended in both)
    wait_until(lambda: len(threads()) == 2, SOON_SECONDS, "one of them ends")
    wait_until(lambda: len(resting._resting) == 2, SOON_SECONDS, "they rest")  # noqa: SLF001


def test_an_error_in_it_leaves_no_thread_and_the_next_has_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda _: None)

    def fail() -> None:
        raise LookupError

    assert run_beside(fail).wait(SOON_SECONDS)
    wait_until(lambda: not threads(), SOON_SECONDS, "the thread ends")
    run()


def test_a_thread_that_is_not_used_again_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resting, "REST_SECONDS", 0.05)
    run()
    wait_until(lambda: not threads(), SOON_SECONDS, "the thread ends")
    run(then_rest=False)


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")  # not noticed: as meant
@pytest.mark.parametrize("is_noticed", [True, False])
def test_a_child_does_not_wait_for_a_thread_of_its_parent(
    monkeypatch: pytest.MonkeyPatch, is_noticed: bool
) -> None:
    """Nor where it was forked by other means than Python's, which no hook notices."""
    if is_noticed:

        class Watcher:
            def before_fork(self) -> None: ...
            def after_fork_in_parent(self) -> None: ...
            def after_fork(self, *, by_uwsgi: bool) -> None: ...

        watcher = Watcher()
        forks.watch(watcher)
    else:
        monkeypatch.setattr(forks, "end_resting_threads", lambda: None)
    run()
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if run() != threading.get_ident() else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert len(threads()) == (0 if is_noticed else 1)
