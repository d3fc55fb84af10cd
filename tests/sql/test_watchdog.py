"""Connections are cut when their time is over, by one thread for all of them."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Apps
from tests.support import wait_until
from tests.support.waiting import SOON_SECONDS
from uwsgi_waffle.sql import watchdog
from uwsgi_waffle.sql.watchdog import Watchdog

LONG_SECONDS = 60.0
NAME = "waffle-sql-limits"


@pytest.fixture
def dog() -> Iterator[Watchdog]:
    dog = Watchdog()
    yield dog
    dog.stop()


@contextlib.contextmanager
def line() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Give both ends of a connection."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == NAME]


def descriptors() -> int:
    return len([*Path("/proc/self/fd").iterdir()])


def is_cut(ours: socket.socket) -> bool:
    """Return whether a read ends at once, and not for want of an answer."""
    with contextlib.suppress(BlockingIOError):
        return ours.recv(1, socket.MSG_DONTWAIT) == b""
    return False


def test_each_connection_is_cut_when_its_own_time_is_over(dog: Watchdog) -> None:
    with line() as (patient, _), line() as (ours, _):
        with dog.cut_off(patient, LONG_SECONDS), dog.cut_off(ours, 0.05):
            began = time.monotonic()
            assert ours.recv(1) == b""
            assert 0.05 <= time.monotonic() - began < SOON_SECONDS
            assert not is_cut(patient)
        with dog.cut_off(patient, -1):
            assert patient.recv(1) == b""


def test_a_call_that_has_ended_in_time_leaves_its_connection(dog: Watchdog) -> None:
    with line() as (ours, _), line() as (other, _):
        before = descriptors()
        with dog.cut_off(ours, 1.0):  # a busy machine may take long to leave it
            pass
        with dog.cut_off(other, 1.1):
            other.recv(1)  # later than the end of the first
        assert not is_cut(ours)
        assert descriptors() == before


def test_many_calls_share_one_thread(dog: Watchdog, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[threading.Thread] = []
    start = threading.Thread.start

    def note(thread: threading.Thread) -> None:
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", note)
    with line() as (ours, _), line() as (other, _):
        for seconds in range(20, 70):
            with dog.cut_off(ours, seconds), dog.cut_off(other, LONG_SECONDS):
                pass
        assert len(started) == len(threads()) == 1


def test_the_thread_ends_once_there_is_nothing_to_watch(
    dog: Watchdog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "LINGER_SECONDS", 0.05)
    with line() as (ours, _):
        for _ in range(2):
            with dog.cut_off(ours, 0.1):
                assert threads()
            wait_until(lambda: not threads(), SOON_SECONDS, "the thread ends")
        with dog.cut_off(ours, 0.05):
            assert ours.recv(1) == b""


def test_no_thread_is_left_where_a_fork_may_follow(
    dog: Watchdog, monkeypatch: pytest.MonkeyPatch
) -> None:
    with line() as (ours, _):
        with dog.cut_off(ours, LONG_SECONDS):
            dog.stop()  # while it watches a connection, it goes on
            assert threads()
        dog.stop()
        assert not threads()
        monkeypatch.setattr(watchdog, "is_about_to_fork", lambda: True)
        with dog.cut_off(ours, LONG_SECONDS):
            assert threads()
        assert not threads()


def test_a_process_forks_without_the_thread(server_apps: Apps) -> None:
    """And its child, whose parent may have held the lock, can watch anew."""
    app, waffle = server_apps(WAFFLE_CONFS={"SIZE": {"default": 1}})
    waffle.update({"SIZE": 2})
    assert threads()
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(Exception):
            has_none = not threads()
            is_changed = waffle.update({"SIZE": 3}).changes == {"SIZE": (2, 3)}
            os._exit(0 if has_none and is_changed and threads() else 1)
        os._exit(2)
    assert not threads()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert app.extensions["waffleconf"].refresh() in {True, False}
    assert waffle.settings.SIZE == 3


def test_without_a_thread_to_be_had_nothing_is_cut(
    dog: Watchdog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        message = "can't start new thread"
        raise RuntimeError(message)

    with line() as (ours, theirs):
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            with dog.cut_off(ours, 0):
                theirs.send(b"x")
                assert ours.recv(1) == b"x"
        with dog.cut_off(ours, 0.05):
            assert ours.recv(1) == b""
