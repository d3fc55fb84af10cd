"""Running a listener until it is stopped."""

from __future__ import annotations

import logging
from collections.abc import Callable, Container

from uwsgi_waffle.bus.channel import Bus
from uwsgi_waffle.host.records import HostSnapshot
from uwsgi_waffle.server.concurrency import Backoff, StopEvent

from .introduction import Introduction
from .listener import TURN_SECONDS, Listener
from .reporter import Reporter
from .telling import Teller

__all__ = ["ListenerLoop", "run_turns"]

logger = logging.getLogger(__name__)


class ListenerLoop:
    """Runs the listener of one application in this process, and reports its host."""

    def __init__(
        self,
        bus: Bus,
        host: HostSnapshot,
        introduction: Introduction,
        reporter: Reporter,
        open_names: Container[str],
    ) -> None:
        """Start nothing yet.

        :param open_names: the settings that are no secrets
        """
        self._bus = bus
        self._host = host
        self._introduction = introduction
        self._reporter = reporter
        self._open_names = open_names

    def run(
        self,
        on_move: Callable[[], None],
        stop: StopEvent,
        on_turn: Callable[[], None] = lambda: None,
    ) -> None:
        """Listen until *stop* is set.

        :param on_move: called when the host snapshot has moved
        :param on_turn: called after each turn
        """
        listener = Listener(
            bus=self._bus,
            host=self._host,
            introduction=self._introduction,
            teller=Teller(self._bus, self._host, self._reporter.pace, self._open_names),
            on_move=on_move,
        )

        def after_turn() -> float:
            on_turn()
            return self._reporter.report_if_due(listener)

        try:
            run_turns(listener, stop, after_turn)
        finally:
            self._host.slots.record_listener("absent")


def run_turns(listener: Listener, stop: StopEvent, after_turn: Callable[[], float]) -> None:
    """Turn until *stop* is set; an unexpected error is logged, and the next turn tries again.

    :param after_turn: returns the seconds that the next turn may take
    """
    turn_seconds = TURN_SECONDS
    backoff = Backoff(0.1, 5.0)
    try:
        while not stop.is_set():
            try:
                listener.turn(turn_seconds, stop)
                turn_seconds = after_turn()
            except Exception:
                logger.exception("waffle: the listener hit an unexpected error and will retry.")
                listener.close()
                stop.wait(backoff.next_seconds())
            else:
                backoff.reset()
    finally:
        listener.close()
