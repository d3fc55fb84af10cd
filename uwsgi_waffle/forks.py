"""Noticing a fork, whoever forked.

Three ways, as each has a hole: ``os.register_at_fork`` (uWSGI forks in C and does not call it),
uWSGI's post-fork hook (anybody may overwrite it), and a stamp that the kernel wipes from the
child's memory, which every request looks at.
"""

from __future__ import annotations

import mmap
import os
import sys
import weakref
from typing import Protocol

from . import boot

__all__ = ["OwnerStamp", "make_stamp", "watch"]

#: From linux/mman.h; Python's mmap does not name it.
_MADV_WIPEONFORK = 18

_watchers: weakref.WeakSet[Watcher] = weakref.WeakSet()
_is_watching = False


class Watcher(Protocol):
    """What wants to know of a fork."""

    def after_fork(self) -> None:
        """Set up this process, just forked."""


class OwnerStamp(Protocol):
    """``stamp[0]`` is true in the process that set it, and false in its children."""

    def __getitem__(self, index: int, /) -> int: ...

    def __setitem__(self, index: int, value: int, /) -> None: ...


class _PidStamp:
    """The stamp for systems whose kernel wipes nothing; five times dearer to look at."""

    def __init__(self) -> None:
        self._pid = 0

    def __getitem__(self, _: int) -> int:
        return os.getpid() == self._pid

    def __setitem__(self, _: int, value: int) -> None:
        self._pid = os.getpid() if value else 0


def make_stamp() -> OwnerStamp:
    """Return a stamp that nobody owns."""
    if sys.platform != "linux":
        return _PidStamp()
    page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        page.madvise(_MADV_WIPEONFORK)
    except OSError:  # before Linux 4.14
        return _PidStamp()
    return memoryview(page)


def watch(watcher: Watcher) -> None:
    """Call ``watcher.after_fork()`` in each process forked from this one, while it lives."""
    global _is_watching  # noqa: PLW0603  # hooks cannot be taken back, so they are set once
    _watchers.add(watcher)
    if not _is_watching:
        _is_watching = True
        os.register_at_fork(after_in_child=_tell)
        boot.on_fork(_tell)


def _tell() -> None:
    for watcher in list(_watchers):
        watcher.after_fork()
