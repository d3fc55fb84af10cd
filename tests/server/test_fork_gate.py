"""A fork waits for work of other threads that a child must not inherit half done."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.waiting import SOON_SECONDS, wait_until
from uwsgi_waffle.server import forks


class Watcher:
    """Makes sure that forks are watched, and counts them."""

    def __init__(self) -> None:
        self.before = 0

    def before_fork(self) -> None:
        """Count."""
        self.before += 1

    def after_fork_in_parent(self) -> None:
        """Do nothing."""

    def after_fork(self, *, by_uwsgi: bool) -> None:
        """Do nothing."""


@pytest.fixture
def watcher() -> Watcher:
    """Watch forks for one test."""
    watcher = Watcher()
    forks.watch(watcher)
    return watcher


class Work:
    """Another thread's work, which lasts until an event."""

    def __init__(self) -> None:
        self.is_done = False

    @contextmanager
    def until(self, end: threading.Event) -> Iterator[None]:
        """Work until the event, or the end of the block."""
        began = threading.Event()

        def work() -> None:
            with forks.without_fork():
                began.set()
                end.wait(SOON_SECONDS)
                self.is_done = True

        thread = threading.Thread(target=work)
        thread.start()
        assert began.wait(SOON_SECONDS)
        yield
        end.set()
        thread.join()


@pytest.fixture
def when_a_fork_waits() -> Iterator[threading.Event]:
    """Return an event that is set once a fork waits for the work of other threads."""
    event = threading.Event()

    def look() -> None:
        wait_until(lambda: forks._gate._closed_by, SOON_SECONDS, "a fork waits")  # noqa: SLF001  # nothing else tells
        event.set()

    thread = threading.Thread(target=look)
    thread.start()
    yield event
    thread.join()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of a fork where threads run
def test_a_fork_waits_for_the_work_of_another_thread(
    watcher: Watcher, when_a_fork_waits: threading.Event
) -> None:
    work = Work()
    with work.until(when_a_fork_waits):
        pid = os.fork()
        if pid == 0:
            with forks.without_fork():
                os._exit(not work.is_done)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert watcher.before == 1
    with forks.without_fork():
        pass


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of a fork where threads run
def test_a_fork_waits_neither_for_its_own_thread_nor_for_ever(
    watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forks, "WORK_SECONDS", 0.05)
    with Work().until(threading.Event()), forks.without_fork():
        pid = os.fork()
        if pid == 0:
            with forks.without_fork():
                os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert watcher.before == 1
