"""Calling back when a process ends in an orderly way, whatever started it.

Python's own hook misses some: until 3.14 children that :mod:`multiprocessing` forks end without it.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable

__all__ = ["call_at_end"]

#: Finalizers run in falling order: this one after those of the application.
_LAST = -100

#: multiprocessing keeps weak references only.
_calls: list[_Call] = []


class _Call:
    """A call that is made once, and by no child of the process that it was asked for in."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback = callback
        self._pid = os.getpid()

    def __call__(self) -> None:
        if self._pid == os.getpid():
            self._pid = 0
            self._callback()


def call_at_end(callback: Callable[[], None]) -> None:
    """Call back when this process ends, unless a signal ends it; its children do not."""
    call = _Call(callback)
    atexit.register(call)
    if "multiprocessing.util" not in sys.modules:
        return  # it did not start this process
    from multiprocessing import util

    _calls.append(call)
    util.Finalize(None, call, exitpriority=_LAST)
    # Again once a child that has just been forked has dropped the finalizers of its parent.
    util.register_after_fork(call, _finalize)


def _finalize(call: _Call) -> None:
    from multiprocessing import util

    util.Finalize(None, call, exitpriority=_LAST)
