"""Where a loop runs when it does not have a process of its own: a thread, or a greenlet."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Protocol

from . import _gevent
from .listener import StopEvent

__all__ = ["Environment", "GreenletEnvironment", "ThreadEnvironment", "choose"]


class Environment(Protocol):
    """Starts a loop beside the requests of a process."""

    def start(self, loop: Callable[[StopEvent], None]) -> None:
        """Start *loop*, which ends when its event is set."""

    def is_alive(self) -> bool:
        """Return whether the loop still runs."""

    def stop(self, timeout_seconds: float) -> None:
        """Ask the loop to end, and wait for it at most *timeout_seconds*."""


class ThreadEnvironment:
    """A daemon thread: one that is not would hold up every reload of uWSGI until it kills."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, loop: Callable[[StopEvent], None]) -> None:
        """Start *loop* in a thread."""
        self._thread = threading.Thread(
            target=loop, args=(self._stop,), name="waffle-listener", daemon=True
        )
        self._thread.start()

    def is_alive(self) -> bool:
        """Return whether the thread still runs."""
        return self._thread is not None and self._thread.is_alive()

    def stop(self, timeout_seconds: float) -> None:
        """Ask the thread to end, and wait for it at most *timeout_seconds*."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout_seconds)


class GreenletEnvironment:
    """A greenlet, where gevent has made the sockets cooperative or is about to."""

    def __init__(self) -> None:
        self._stop = _gevent.stop_event()
        self._greenlet: Any = None

    def start(self, loop: Callable[[StopEvent], None]) -> None:
        """Start *loop* in a greenlet."""
        self._greenlet = _gevent.spawn(lambda: loop(self._stop))

    def is_alive(self) -> bool:
        """Return whether the greenlet still runs, or has yet to."""
        return self._greenlet is not None and not self._greenlet.ready()

    def stop(self, timeout_seconds: float) -> None:
        """Ask the greenlet to end, and wait for it at most *timeout_seconds*."""
        self._stop.set()
        if self._greenlet is not None:
            self._greenlet.join(timeout_seconds)


def choose() -> Environment:
    """Return what fits this process: a greenlet with blocking sockets would freeze it whole."""
    return GreenletEnvironment() if _gevent.sockets_are_cooperative() else ThreadEnvironment()
