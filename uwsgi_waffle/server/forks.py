"""Noticing a fork, whatever code forks, and keeping it away from work that must not be copied.

Three ways, as each has a hole: ``os.register_at_fork`` (uWSGI forks in C and does not call it),
uWSGI's post-fork hook (other code may overwrite it), and a number that the kernel wipes from the
child's memory, which every request reads.
"""

from __future__ import annotations

import mmap
import os
import socket
import sys
import threading
import weakref
from contextlib import AbstractContextManager, suppress
from typing import Protocol

from . import concurrency, hooks
from .resting import end_resting_threads

__all__ = ["OwnNumber", "keep_from_children", "make_own_number", "watch", "without_fork"]

#: Most seconds that a fork waits for work of other threads: longer than SQLite waits for a lock.
WORK_SECONDS = 6.0

#: From linux/mman.h; Python's mmap does not name it.
_MADV_WIPEONFORK = 18

_watchers: weakref.WeakSet[Watcher] = weakref.WeakSet()
#: Those that no child is to hold, and the process that made each.
_sockets: weakref.WeakKeyDictionary[socket.socket, int] = weakref.WeakKeyDictionary()
_is_watching = False


class Watcher(Protocol):
    """An object that sets itself up after a fork."""

    def before_fork(self) -> None:
        """Give up what a child must not inherit."""

    def after_fork_in_parent(self) -> None:
        """Go on in the process that has forked another one."""

    def after_fork(self, *, by_uwsgi: bool) -> None:
        """Set up this process, just forked.

        :param by_uwsgi: called by uWSGI's post-fork hook
        """


class OwnNumber(Protocol):
    """``number[0]`` is what this process has stored there, and 0 in its children."""

    def __getitem__(self, index: int, /) -> float: ...

    def __setitem__(self, index: int, value: float, /) -> None: ...


class _NumberWithPid:
    """The number for kernels that wipe nothing; reading it takes five times as long."""

    def __init__(self) -> None:
        self._pid = 0
        self._value = 0.0

    def __getitem__(self, _: int) -> float:
        return self._value if os.getpid() == self._pid else 0.0

    def __setitem__(self, _: int, value: float) -> None:
        self._value = value
        self._pid = os.getpid()


def make_own_number() -> OwnNumber:
    """Return a number, which is 0."""
    if sys.platform != "linux":
        return _NumberWithPid()
    page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        page.madvise(_MADV_WIPEONFORK)
    except OSError:  # before Linux 4.14
        return _NumberWithPid()
    return memoryview(page).cast("d")


def watch(watcher: Watcher) -> None:
    """Call ``watcher.after_fork()`` in each process forked from this one, while it lives."""
    global _is_watching  # noqa: PLW0603  # hooks cannot be removed, so they are set once
    _watchers.add(watcher)
    if not _is_watching:
        _is_watching = True
        os.register_at_fork(
            before=_before_fork,
            after_in_parent=_after_fork_in_parent,
            after_in_child=lambda: _after_fork(by_uwsgi=False),
        )
        hooks.on_fork(lambda: _after_fork(by_uwsgi=True))


def _before_fork() -> None:
    end_resting_threads()
    _gate.close()
    for watcher in list(_watchers):
        watcher.before_fork()


def _after_fork_in_parent() -> None:
    _gate.open()
    for watcher in list(_watchers):
        watcher.after_fork_in_parent()


def keep_from_children(made: socket.socket) -> None:
    """Have children that are forked from now on let go of a socket of this process.

    Its other end would not hear of this process's death while such a child lives.
    """
    _sockets[made] = os.getpid()


def _let_go_of_sockets() -> None:
    """Let go of the parent's sockets: put something else in their place.

    They are not closed: their objects still have the numbers, and would close them once more.
    """
    inherited = [made for made, pid in list(_sockets.items()) if pid != os.getpid()]
    if not inherited or concurrency.sockets_are_patched():
        return  # gevent copies the greenlets that wait for them
    with suppress(OSError):  # there is no descriptor left
        nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for number in [made.fileno() for made in inherited]:
            if number >= 0:
                os.dup2(nothing, number, inheritable=False)
        os.close(nothing)


def _after_fork(*, by_uwsgi: bool) -> None:
    global _gate  # noqa: PLW0603  # its lock may have been held at the fork
    _gate = _Gate()
    _let_go_of_sockets()
    for watcher in list(_watchers):
        watcher.after_fork(by_uwsgi=by_uwsgi)


class _Gate:
    """Closed during a fork, which waits until no other thread is within."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._within: list[int] = []
        self._closed_by = 0

    def __enter__(self) -> None:
        me = threading.get_ident()
        with self._condition:
            self._condition.wait_for(
                lambda: not self._closed_by or me == self._closed_by or me in self._within
            )
            self._within.append(me)

    def __exit__(self, *_: object) -> None:
        with self._condition:
            self._within.remove(threading.get_ident())
            self._condition.notify_all()

    def close(self) -> None:
        me = threading.get_ident()
        with self._condition:
            self._condition.wait_for(lambda: not self._closed_by, WORK_SECONDS)
            self._closed_by = me
            self._condition.wait_for(lambda: {*self._within} <= {me}, WORK_SECONDS)

    def open(self) -> None:
        with self._condition:
            self._closed_by = 0
            self._condition.notify_all()


_gate = _Gate()


def without_fork() -> AbstractContextManager[None]:
    """Have a fork of another thread wait for the block, at most :data:`WORK_SECONDS`.

    For what keeps its locks in the memory of the process, and so would leave them locked for ever
    in a child: SQLite does.
    """
    return _gate
