"""Noticing a fork, whatever code forks.

Three ways, as each has a hole: ``os.register_at_fork`` (uWSGI forks in C and does not call it),
uWSGI's post-fork hook (other code may overwrite it), and a number that the kernel wipes from the
child's memory, which every request reads.
"""

from __future__ import annotations

import mmap
import os
import sys
import weakref
from typing import Protocol

from . import hooks

__all__ = ["OwnNumber", "make_own_number", "watch"]

#: From linux/mman.h; Python's mmap does not name it.
_MADV_WIPEONFORK = 18

_watchers: weakref.WeakSet[Watcher] = weakref.WeakSet()
_is_watching = False


class Watcher(Protocol):
    """An object that sets itself up after a fork."""

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
        os.register_at_fork(after_in_child=lambda: _call_watchers(by_uwsgi=False))
        hooks.on_fork(lambda: _call_watchers(by_uwsgi=True))


def _call_watchers(*, by_uwsgi: bool) -> None:
    for watcher in list(_watchers):
        watcher.after_fork(by_uwsgi=by_uwsgi)
