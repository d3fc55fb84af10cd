"""Cutting connections whose time is over: one thread for all of a database in one process.

Drivers wait for an answer without limit, and a server that is stopped keeps its connections. A
thread for each call would take a fifth of the time of a short transaction.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from uwsgi_waffle.server.concurrency import is_about_to_fork

__all__ = ["Watchdog"]

#: Seconds for which the thread waits for a connection to watch before it ends.
LINGER_SECONDS = 5.0


class Watchdog:
    """Watches the connections in use; its thread starts with the first, and ends by itself."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        #: Descriptor of a connection -> when it is cut, in seconds of the monotonic clock.
        self._cut_at: dict[int, float] = {}
        self._thread: threading.Thread | None = None
        #: Identifies the run of that thread; a greenlet may not be found by itself.
        self._run_id: object = None
        self._looks_at = 0.0

    @contextmanager
    def cut_off(self, driver_connection: Any, seconds: float) -> Iterator[None]:
        """Cut a connection that is still used after some seconds, so that no call waits longer.

        Without a connection of its own, as SQLite, or a thread to be had, nothing is cut.
        """
        descriptor = _descriptor(driver_connection)
        if descriptor is None:
            yield
            return
        try:
            self._watch(descriptor, time.monotonic() + seconds)
            yield
        finally:
            with self._changed:  # so it is not being cut
                self._cut_at.pop(descriptor, None)
                os.close(descriptor)
            if is_about_to_fork():
                self.stop()

    def stop(self) -> None:
        """End the thread unless it watches a connection; the next one starts another."""
        with self._changed:
            if self._cut_at or self._thread is None:
                return
            thread, self._thread, self._run_id = self._thread, None, None
            self._changed.notify_all()
        thread.join()

    def _watch(self, descriptor: int, cut_at: float) -> None:
        with self._changed:
            self._cut_at[descriptor] = cut_at
            if self._thread is not None:
                if cut_at < self._looks_at:
                    self._changed.notify_all()
                return
            self._run_id, self._looks_at = object(), cut_at
            self._thread = thread = threading.Thread(
                target=self._run, args=(self._run_id,), name="waffle-sql-limits", daemon=True
            )
        # Without the lock, as that lets other greenlets run.
        try:
            thread.start()
        except RuntimeError:  # no more threads can be started
            with self._changed:
                self._thread = None

    def _run(self, run_id: object) -> None:
        with self._changed:
            while self._run_id is run_id:
                now = time.monotonic()
                for descriptor in [d for d, cut_at in self._cut_at.items() if cut_at <= now]:
                    del self._cut_at[descriptor]
                    _cut(descriptor)
                self._looks_at = min(self._cut_at.values(), default=now + LINGER_SECONDS)
                was_notified = self._changed.wait(self._looks_at - now)
                if self._run_id is run_id and not self._cut_at and not was_notified:
                    self._thread = self._run_id = None


def _descriptor(driver_connection: Any) -> int | None:
    """Return another descriptor of a connection's socket, ``None`` where there is none.

    Another one, as the driver may close its own, whose number the next file then gets.
    """
    # PyMySQL has no public name for it.
    line = getattr(driver_connection, "_sock", driver_connection)
    try:
        return os.dup(line.fileno())
    except Exception:  # noqa: BLE001  # drivers differ, and a broken connection needs no limit
        return None


def _cut(descriptor: int) -> None:
    line = socket.socket(fileno=descriptor)
    with suppress(OSError):  # the server was faster
        line.shutdown(socket.SHUT_RDWR)
    line.detach()
