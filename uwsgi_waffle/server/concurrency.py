"""Threads and greenlets, in which a loop runs beside the requests; the only user of gevent.

gevent is optional, and the operator of the server decides on it. Whether it is there is found out
at the moment of use, never at import: uWSGI's ``gevent-monkey-patch`` patches only when the
worker's loop starts, long after the application was loaded.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from uwsgi_waffle.errors import ConfigError

from . import _uwsgi
from ._uwsgi import Role
from .resting import run_and_rest, run_in_resting_thread

__all__ = [
    "THREAD_NAME",
    "Backoff",
    "Environment",
    "GreenletEnvironment",
    "StopEvent",
    "Task",
    "ThreadEnvironment",
    "choose_environment",
    "ctrl_c_is_raised_here",
    "is_about_to_fork",
    "is_gevent_loaded",
    "patch_all",
    "reinit_after_fork",
    "run_beside",
    "sockets_are_cooperative",
    "spawn",
    "spread",
    "stop_event",
    "threads_run_while_idle",
]


#: Of a thread that does work beside a caller, for debuggers.
THREAD_NAME = "waffle-beside"


class StopEvent(Protocol):
    """What a loop needs of ``threading.Event``, or of gevent's."""

    def is_set(self) -> bool:
        """Return whether the loop is to end."""

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the loop is to end, at most *timeout* seconds; return whether it is."""


#: The system's: a child that was forked does not repeat its parent, and the application's own
#: generator is left alone.
_random = random.SystemRandom()


class Backoff:
    """How long to wait before the next try: doubling, capped, with jitter."""

    def __init__(self, first_seconds: float, cap_seconds: float) -> None:
        self._first_seconds = first_seconds
        self._cap_seconds = cap_seconds
        self._next_seconds = first_seconds

    def reset(self) -> None:
        """Start from the beginning after a success."""
        self._next_seconds = self._first_seconds

    def next_seconds(self) -> float:
        """Return the seconds to wait now, and double the next ones."""
        seconds = self._next_seconds
        self._next_seconds = min(2 * seconds, self._cap_seconds)
        return seconds * spread(0.5, 1.0)


def spread(least: float, most: float) -> float:
    """Return a random number between two, so that processes do not do the same at one moment."""
    return _random.uniform(least, most)


class Environment(Protocol):
    """Starts a loop beside the requests of a process."""

    def start(self, loop: Callable[[StopEvent], None]) -> None:
        """Start *loop*, which ends when its event is set."""

    def is_alive(self) -> bool:
        """Return whether the loop still runs."""

    def request_stop(self) -> None:
        """Ask the loop to end."""

    def stop(self, timeout_seconds: float) -> None:
        """Ask the loop to end, and wait for it at most *timeout_seconds*."""


class ThreadEnvironment:
    """A daemon thread: any other delays a reload until uWSGI kills the worker."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, loop: Callable[[StopEvent], None]) -> None:
        """Start *loop* in a thread."""
        thread = threading.Thread(
            target=loop, args=(self._stop,), name="waffle-listener", daemon=True
        )
        thread.start()
        self._thread = thread  # not one that could not start, which cannot be joined

    def is_alive(self) -> bool:
        """Return whether the thread still runs."""
        return self._thread is not None and self._thread.is_alive()

    def request_stop(self) -> None:
        """Ask the thread to end."""
        self._stop.set()

    def stop(self, timeout_seconds: float) -> None:
        """Ask the thread to end, and wait for it at most *timeout_seconds*."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout_seconds)


class GreenletEnvironment:
    """A greenlet, for where gevent has patched the sockets or is about to."""

    def __init__(self) -> None:
        self._stop = stop_event()
        self._greenlet: Any = None

    def start(self, loop: Callable[[StopEvent], None]) -> None:
        """Start *loop* in a greenlet."""
        self._greenlet = spawn(lambda: loop(self._stop))

    def is_alive(self) -> bool:
        """Return whether the greenlet still runs, or has yet to."""
        return self._greenlet is not None and not self._greenlet.ready()

    def request_stop(self) -> None:
        """Ask the greenlet to end."""
        self._stop.set()

    def stop(self, timeout_seconds: float) -> None:
        """Ask the greenlet to end, and wait for it at most *timeout_seconds*."""
        self._stop.set()
        if self._greenlet is not None:
            self._greenlet.join(timeout_seconds)


def choose_environment() -> Environment:
    """Return what fits this process; a greenlet with blocking sockets would freeze all of it."""
    return GreenletEnvironment() if sockets_are_cooperative() else ThreadEnvironment()


def is_about_to_fork() -> bool:
    """Return whether this is a uWSGI master, in which an app may handle a request at its import.

    A thread that runs at the fork may hold the interpreter's lock, and a worker that inherits the
    lock in that state hangs at its start.
    """
    server = _uwsgi.server
    return server is not None and server.role() in (Role.MASTER, Role.ALONE)


def threads_run_while_idle() -> bool:
    """Return whether threads run on while this process waits for requests.

    uWSGI before 2.0.27 keeps the interpreter's lock then, unless it was started with threads.
    """
    server = _uwsgi.server
    return server is None or server.runs_threads


def ctrl_c_is_raised_here() -> bool:
    """Return whether Ctrl-C raises KeyboardInterrupt in this thread: the main one, if at all.

    A server handles SIGINT by itself, and uWSGI without Python knowing of it.
    """
    is_main = threading.get_native_id() == os.getpid()  # greenlets are not told from threads else
    handler = signal.getsignal(signal.SIGINT)
    return is_main and handler is signal.default_int_handler and _uwsgi.server is None


class Task:
    """Work that is done once beside the caller, in a greenlet or a daemon thread."""

    def __init__(self, work: Callable[[], None]) -> None:
        """Do nothing yet."""
        self._work = work
        self._in_greenlet = sockets_are_cooperative()
        self._ended: Any = stop_event() if self._in_greenlet else threading.Event()
        self._made_at = time.monotonic()

    def start(self) -> None:
        """Do the work beside the caller.

        Where neither greenlet nor thread may be started, or can be (no more threads are allowed, or
        the interpreter ends), it has been done when this returns.
        """
        if is_about_to_fork():
            self.run()
        elif self._in_greenlet:
            spawn(self.run)
        elif not run_in_resting_thread(self.run):
            run = partial(run_and_rest, self.run)
            try:
                threading.Thread(target=run, name=THREAD_NAME, daemon=True).start()
            except RuntimeError:
                self.run()

    def run(self) -> None:
        """Do the work here."""
        try:
            self._work()
        finally:
            self._ended.set()

    def wait(self, seconds: float) -> bool:
        """Wait until the work is done, at most *seconds*; return whether it is."""
        return bool(self._ended.wait(seconds))

    def age_seconds(self) -> float:
        """Return how many seconds ago the task was made."""
        return time.monotonic() - self._made_at


def run_beside(work: Callable[[], None]) -> Task:
    """Start *work* beside the caller, see :meth:`Task.start`."""
    task = Task(work)
    task.start()
    return task


def is_gevent_loaded() -> bool:
    """Return whether gevent is imported in this process."""
    return "gevent" in sys.modules


def sockets_are_patched() -> bool:
    """Return whether gevent has patched the standard sockets."""
    if not is_gevent_loaded():
        return False
    from gevent import monkey

    return bool(monkey.is_module_patched("socket"))


def sockets_are_cooperative() -> bool:
    """Return whether a greenlet started now will find cooperative sockets once it runs."""
    if sockets_are_patched():
        return True
    server = _uwsgi.server
    if server is None or server.worker_id() == 0:
        return False  # only the loop of a worker patches late; a greenlet of a mule would never run
    return server.runs_gevent and server.enabled("gevent-monkey-patch")


def patch_all() -> None:
    """Import gevent and patch the standard library, for ``WAFFLE_LISTENER = "gevent"``.

    :raises ConfigError: gevent is not installed
    """
    try:
        from gevent import monkey
    except ImportError as error:
        message = (
            "WAFFLE_LISTENER = 'gevent', but gevent is not installed. "
            "Run `pip install uwsgi-waffle[gevent]`, or set WAFFLE_LISTENER to 'auto'."
        )
        raise ConfigError(message, key="WAFFLE_LISTENER", value="gevent") from error
    monkey.patch_all()


def reinit_after_fork() -> None:
    """Give a process forked from a master that used gevent a hub of its own.

    Without it a mule hangs in its first blocking call.
    """
    if is_gevent_loaded():
        import gevent

        gevent.reinit()


def spawn(target: Callable[[], None]) -> Any:
    """Start *target* in a greenlet and return it."""
    import gevent

    return gevent.spawn(target)


def stop_event() -> Any:
    """Return an event whose ``wait`` lets other greenlets run."""
    from gevent.event import Event

    return Event()
