"""A thread that has done what it was started for, and is used again if that is soon.

To start one costs an update on PostgreSQL a tenth of its time, and a worker that is woken for a
change two thirds.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue

__all__ = ["end_resting_thread", "run_and_rest", "run_in_resting_thread"]

#: Seconds for which the thread is kept.
REST_SECONDS = 5.0

Work = Callable[[], None]

#: Of the one thread that rests: its process, itself, and what gives it work, or ``None`` to end.
_resting: list[tuple[int, threading.Thread, SimpleQueue[Work | None]]] = []


def run_and_rest(work: Work) -> None:
    """Do *work* in this thread, and what else it is given; return where it is not needed."""
    left: Work | None = work
    while left is not None:
        left()
        left = _rest()


def run_in_resting_thread(work: Work) -> bool:
    """Give *work* to the thread that rests, and return whether there is one."""
    return _give(work) is not None


def end_resting_thread() -> None:
    """End the thread that rests, as before a fork."""
    thread = _give(None)
    if thread is not None:
        thread.join()


def _give(work: Work | None) -> threading.Thread | None:
    """Wake the thread that rests, if there is one, and return it."""
    with suppress(IndexError):
        pid, thread, queue = _resting.pop()
        if pid == os.getpid():  # else its process was this one's parent
            queue.put(work)
            return thread
    return None


def _rest() -> Work | None:
    """Wait in this thread; return what to do next, ``None`` to end."""
    if _resting:
        return None
    queue: SimpleQueue[Work | None] = SimpleQueue()
    mine = os.getpid(), threading.current_thread(), queue
    _resting.append(mine)
    try:
        return queue.get(timeout=REST_SECONDS)
    except Empty:
        with suppress(ValueError):
            _resting.remove(mine)
            return None
        return queue.get()  # it was chosen at this moment
