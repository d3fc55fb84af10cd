"""Asking SQL on behalf of requests, none of which waits for the answer longer than it must."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from . import _gevent
from .errors import StoreUnavailable
from .placement import is_about_to_fork
from .reconcile import Reconciler
from .shared import HostSnapshot
from .snapshot import Record

__all__ = ["Asker"]

logger = logging.getLogger(__name__)

#: Seconds that a request waits for SQL.
PATIENCE_SECONDS = 0.5
#: Seconds of silence that the log tells of.
SILENCE_SECONDS = 2.0
#: Seconds after which no answer is expected any more, such as on a connection that a firewall cut.
ABANDON_SECONDS = 15.0


class Asker:
    """Asks SQL in a thread, as a database may neither answer nor refuse for as long as it likes.

    Whoever asks waits for half a second. An answer that comes later is not lost: what asks also
    takes it, and the next request sees it.
    """

    def __init__(self, host: HostSnapshot, reconciler: Reconciler, poll_seconds: float) -> None:
        self._host = host
        self._reconciler = reconciler
        self._poll_seconds = poll_seconds
        self._question: _Question | None = None

    def after_fork(self) -> None:
        """Forget a question of the parent's, whose answer comes to the parent."""
        self._question = None

    def poll_if_due(self) -> None:
        """Move the host snapshot to SQL, if it is time, and for this process to do: one of all."""
        if not self._may_ask(0):
            return  # and leave the turn to a process that may
        with self._host.asking(self._poll_seconds) as mine:
            if mine:
                self.run(lambda: self._reconciler.poll(is_only_reader=True))

    def take(self) -> Record | None:
        """Move the host snapshot to SQL, and return what SQL holds; ``None`` without an answer."""
        found: list[Record | None] = []
        self.run(lambda: found.append(self._reconciler.take()))
        return found[0] if found else None

    def run(self, act: Callable[[], object], late: Callable[[], None] | None = None) -> None:
        """Do what asks SQL, and return when it is done, or has taken too long.

        While an earlier question is open, nothing is asked.

        :param act: may raise ``StoreUnavailable``, which the reconciler has said by then
        :param late: called after *act*, where that has taken too long
        """
        deadline = time.monotonic() + PATIENCE_SECONDS
        if not self._may_ask(PATIENCE_SECONDS):
            return
        question = _Question(act, late)
        try:
            if is_about_to_fork():
                question.ask()
                return
            question.start()
        except RuntimeError:  # there can be no more threads, or the interpreter ends
            question.ask()
            return
        self._question = question
        question.wait(max(0.0, deadline - time.monotonic()))

    def _may_ask(self, patience_seconds: float) -> bool:
        """Return whether no question is open, or none that may still be answered."""
        question = self._question
        if question is None or question.is_answered(patience_seconds):
            return True
        age_seconds = question.age_seconds()
        if age_seconds >= SILENCE_SECONDS:
            self._reconciler.note_silence(age_seconds)
        if age_seconds < ABANDON_SECONDS:
            return False
        self._reconciler.reconnect()
        self._question = None
        return True


class _Question:
    """Something that asks SQL, in a thread or greenlet of its own."""

    def __init__(self, act: Callable[[], object], late: Callable[[], None] | None) -> None:
        self._act = act
        self._late = late
        self._is_late = False
        self._asked_at = time.monotonic()
        self._in_greenlet = _gevent.sockets_are_cooperative()
        self._answered = _gevent.stop_event() if self._in_greenlet else threading.Event()

    def start(self) -> None:
        """Ask beside the caller.

        :raises RuntimeError: no thread can be started
        """
        if self._in_greenlet:
            _gevent.spawn(self.ask)
        else:
            threading.Thread(target=self.ask, name="waffle-asker", daemon=True).start()

    def ask(self) -> None:
        """Ask, and log what nobody foresaw."""
        try:
            self._act()
        except StoreUnavailable:
            pass  # the reconciler has said so; the next poll asks again
        except Exception:
            logger.exception("waffle: reading SQL failed; the last known settings are served.")
        # Before what follows, which may ask as well.
        self._answered.set()
        if self._is_late and self._late is not None:
            self._late()

    def wait(self, seconds: float) -> None:
        """Wait for the answer; without one in time, it is late."""
        # Whoever asked looks at what has come after this, so an answer in between is not missed.
        self._is_late = not self._answered.wait(seconds)

    def is_answered(self, patience_seconds: float) -> bool:
        """Return whether there is an answer; one that is late is not waited for once more."""
        return bool(self._answered.wait(0 if self._is_late else patience_seconds))

    def age_seconds(self) -> float:
        """Return how long ago it was asked."""
        return time.monotonic() - self._asked_at
