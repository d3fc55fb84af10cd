"""Threads that have done what they were started for, and are used again if that is soon.

To start one costs an update on PostgreSQL a tenth of its time, and a worker that is woken for a
change two thirds.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue

__all__ = ["end_resting_threads", "run_and_rest", "run_in_resting_thread"]

#: Seconds for which such a thread is kept.
REST_SECONDS = 5.0
#: How many are kept: an update announces, and calls back at the same time.
MOST_RESTING = 2

Work = Callable[[], None]

#: Of each thread that rests: its process, itself, and what gives it work, or ``None`` to end.
_resting: list[tuple[int, threading.Thread, SimpleQueue[Work | None]]] = []


def run_and_rest(work: Work) -> None:
    """Do *work* in this thread, and what else it is given; return where it is not needed."""
    left: Work | None = work
    while left is not None:
        left()
        left = _rest()


def run_in_resting_thread(work: Work) -> bool:
    """Give *work* to a thread that rests, and return whether there is one."""
    return _give(work) is not None


def end_resting_threads() -> None:
    """End the threads that rest, as before a fork."""
    while (thread := _give(None)) is not None:
        thread.join()


def _give(work: Work | None) -> threading.Thread | None:
    """Wake a thread that rests, if there is one, and return it."""
    with suppress(IndexError):
        while True:
            pid, thread, queue = _resting.pop()
            if pid == os.getpid():  # else its process was this one's parent
                queue.put(work)
                return thread
    return None


def _rest() -> Work | None:
    """Wait in this thread; return what to do next, ``None`` to end."""
    if len(_resting) >= MOST_RESTING:
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
