"""Hearing announcements, on a connection to Redis that is known to be alive."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .announcements import Announcement
from .client import ANSWER_SECONDS, BusUnavailable, failures, reason

__all__ = ["Heard", "Subscription"]

#: Seconds of silence after which the server is sent a ping.
PING_AFTER_SECONDS = 3.0
#: Seconds of silence after which the connection counts as dead.
DEAD_AFTER_SECONDS = 8.0
#: Messages received in one go, so that a flood cannot keep a listener from its other work.
_MAX_AT_ONCE = 1000


@dataclass(slots=True)
class Heard:
    """What a subscription received.

    :ivar announcements: those of our namespace that are signed by our key
    :ivar reconnected: the connection was made anew, so messages may be lost
    :ivar ignored: how many messages of our namespace were not signed by our key, or malformed
    """

    announcements: list[Announcement]
    reconnected: bool = False
    ignored: int = 0


class Subscription:
    """A confirmed subscription, on a connection that is known to be alive."""

    def __init__(self, pubsub: Any, namespace: str, keys: Callable[[], Sequence[str]]) -> None:
        self._pubsub = pubsub
        self._namespace = namespace
        self._keys = keys
        self._heard_at = time.monotonic()
        #: When the server was sent a ping that it has not answered, 0 where there is none.
        self._pinged_at = 0.0

    def wait_for_confirmation(self) -> None:
        """Wait until the server has confirmed.

        :raises TimeoutError: it did not
        """
        deadline = time.monotonic() + ANSWER_SECONDS
        while time.monotonic() < deadline:
            if self._next(deadline - time.monotonic()) is not None:
                return
        message = f"no answer within {ANSWER_SECONDS:g} s"
        raise TimeoutError(message)

    def receive(self, timeout_seconds: float) -> Heard:
        """Return what has come, waiting for the first message at most *timeout_seconds*.

        :raises BusUnavailable: the connection is dead
        """
        heard = Heard([])
        try:
            self._ping_if_silent()
            for _ in range(_MAX_AT_ONCE):
                message = self._next(timeout_seconds)
                if message is None:
                    break
                timeout_seconds = 0
                self._sort(message, heard)
            self._check_alive()
        except failures() as error:
            raise BusUnavailable(reason(error)) from error
        return heard

    def _sort(self, message: dict[str, Any], heard: Heard) -> None:
        """Add a message to what was heard."""
        if message["type"] == "subscribe":  # redis-py reconnected by itself
            heard.reconnected = True
        if message["type"] != "message":
            return
        decoded = Announcement.decode(message["data"])
        if decoded is None:
            heard.ignored += 1
            return
        announcement, signatures = decoded
        if announcement.namespace != self._namespace:
            return
        if announcement.is_signed(self._keys(), signatures):
            heard.announcements.append(announcement)
        else:
            heard.ignored += 1

    def _next(self, timeout_seconds: float) -> dict[str, Any] | None:
        message: dict[str, Any] | None = self._pubsub.get_message(timeout=max(timeout_seconds, 0))
        if message is not None:
            self._heard_at = time.monotonic()
            self._pinged_at = 0.0
        return message

    def _ping_if_silent(self) -> None:
        now = time.monotonic()
        if not self._pinged_at and now - self._heard_at > PING_AFTER_SECONDS:
            self._pinged_at = now
            self._pubsub.ping()

    def _check_alive(self) -> None:
        """Give up on a server that has not answered a ping for too long.

        After what has come was read, as it may have waited while this process stood still.

        :raises TimeoutError: it has not
        """
        now = time.monotonic()
        most_seconds = DEAD_AFTER_SECONDS - PING_AFTER_SECONDS
        if self._pinged_at and now - self._pinged_at > most_seconds:
            message = f"no sign of life for {now - self._heard_at:.0f} s"
            raise TimeoutError(message)
