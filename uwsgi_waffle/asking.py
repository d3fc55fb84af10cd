"""Asking SQL on behalf of requests, none of which waits for the answer longer than it must."""

from __future__ import annotations

import logging
from collections.abc import Callable

from .environment import Environment, choose
from .errors import StoreUnavailable
from .reconcile import Reconciler
from .shared import HostSnapshot
from .snapshot import Record

__all__ = ["Asker"]

logger = logging.getLogger(__name__)

#: Seconds that a request waits for SQL.
PATIENCE_SECONDS = 0.5


class Asker:
    """Asks SQL in a thread, as a database may neither answer nor refuse for as long as it likes.

    An answer that comes late is not lost: what asks also takes it, and the next request sees it.
    """

    def __init__(self, host: HostSnapshot, reconciler: Reconciler, poll_seconds: float) -> None:
        self._host = host
        self._reconciler = reconciler
        self._poll_seconds = poll_seconds
        self._asking: Environment | None = None
        self._is_overdue = False

    def after_fork(self) -> None:
        """Forget a question of the parent's, whose answer comes to the parent."""
        self._asking = None

    def poll_if_due(self) -> None:
        """Move the host snapshot to SQL, if it is time, and for this process to do: one of all."""
        if self._asking is not None and self._asking.is_alive():
            return
        with self._host.asking(self._poll_seconds) as mine:
            if mine:
                self.run(lambda: self._reconciler.poll(is_only_reader=True))

    def take(self) -> Record | None:
        """Move the host snapshot to SQL, and return what SQL holds; ``None`` without an answer."""
        found: list[Record | None] = []
        self.run(lambda: found.append(self._reconciler.take()))
        return found[0] if found else None

    def run(self, act: Callable[[], object]) -> None:
        """Do what asks SQL, and return when it is done, or has taken too long.

        Where an earlier question takes too long, this one is not asked; where that one has, it is
        not waited for any more.

        :param act: may raise ``StoreUnavailable``, which the reconciler has said by then
        """
        if self._is_done(self._asking):
            asking = self._asking = choose()
            self._is_overdue = False
            asking.start(lambda _: _quietly(act))
            if self._is_done(asking):
                return
        self._is_overdue = True
        self._reconciler.note_silence(PATIENCE_SECONDS)

    def _is_done(self, asking: Environment | None) -> bool:
        if asking is None:
            return True
        asking.stop(0 if self._is_overdue else PATIENCE_SECONDS)
        return not asking.is_alive()


def _quietly(act: Callable[[], object]) -> None:
    try:
        act()
    except StoreUnavailable:
        pass
    except Exception:
        logger.exception("waffle: reading SQL failed; the last known settings are served.")
