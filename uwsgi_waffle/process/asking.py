"""Asking SQL on behalf of requests, none of which waits longer than it must for the answer."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial

from uwsgi_waffle.errors import StoreUnavailable
from uwsgi_waffle.host.records import HostSnapshot
from uwsgi_waffle.host.turns import asking
from uwsgi_waffle.listen.introduction import Introduction
from uwsgi_waffle.server import concurrency
from uwsgi_waffle.values.snapshot import Record

__all__ = ["Asker"]

logger = logging.getLogger(__name__)

#: Seconds that a request waits for SQL.
PATIENCE_SECONDS = 0.5
#: Seconds without an answer after which that is logged.
SILENCE_SECONDS = 2.0
#: Seconds after which no answer is expected any more, such as on a connection that a firewall cut.
ABANDON_SECONDS = 15.0


class Asker:
    """Asks SQL in a thread, as a database may not answer for as long as it likes.

    A request waits for half a second. A later answer is not lost: it still moves the host snapshot,
    and the next request sees it.
    """

    def __init__(
        self,
        host: HostSnapshot,
        introduction: Introduction,
        poll_seconds: float,
    ) -> None:
        self._host = host
        self._introduction = introduction
        self._reconciler = introduction.reconciler
        self._poll_seconds = poll_seconds
        self._task: concurrency.Task | None = None
        self._is_late = False

    def after_fork(self) -> None:
        """Forget a question of the parent, which gets the answer."""
        self._task = None

    def poll_if_due(self) -> None:
        """Move the host snapshot to SQL, if that is due and no other process does it."""
        if not self._may_ask(0):
            return  # and leave the turn to a process that may
        if self._introduction.is_due:
            self._ask(self._introduce)
            return
        with asking(self._host, self._poll_seconds) as mine:
            if mine:
                self._ask(lambda: self._reconciler.poll(is_only_reader=True))

    def _introduce(self) -> None:
        with self._introduction.introducing(PATIENCE_SECONDS) as is_mine:
            if is_mine:
                self._reconciler.poll(is_only_reader=True)

    def reconcile(self) -> Record | None:
        """Move the host snapshot to SQL, and return what SQL holds; ``None`` without an answer."""
        found: list[Record | None] = []
        self._ask(lambda: found.append(self._reconciler.reconcile()))
        return found[0] if found else None

    def _ask(self, question: Callable[[], object]) -> None:
        """Ask SQL, and return with the answer, or when the request has waited long enough.

        While an earlier question is open, nothing is asked.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS
        if not self._may_ask(PATIENCE_SECONDS):
            return
        self._is_late = False
        self._task = task = concurrency.run_beside(partial(_answer, question))
        self._is_late = not task.wait(max(0.0, deadline - time.monotonic()))

    def _may_ask(self, patience_seconds: float) -> bool:
        """Return whether no question is open, or none that may still be answered."""
        task = self._task
        # An answer that is late is not waited for again.
        if task is None or task.wait(0 if self._is_late else patience_seconds):
            return True
        age_seconds = task.age_seconds()
        if age_seconds >= SILENCE_SECONDS:
            self._reconciler.note_silence(age_seconds)
        if age_seconds < ABANDON_SECONDS:
            return False
        self._reconciler.reconnect()
        self._task = None
        return True


def _answer(question: Callable[[], object]) -> None:
    """Ask SQL, and log unexpected errors."""
    try:
        question()
    except StoreUnavailable:
        pass  # the reconciler has logged it; the next poll asks again
    except Exception:
        logger.exception("waffle: reading SQL failed; the last known settings are served.")
