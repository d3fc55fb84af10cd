"""Redis: the one door to it. It carries the news that a revision exists, never a value.

Publish and subscribe is lossy by nature, so nothing here is relied on: a subscriber reads SQL
after every (re)connection, and whatever it cannot understand counts as "look".
"""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from ._redis import (
    ANSWER_SECONDS,
    FAILURES,
    BusUnavailable,
    RedisConnectionError,
    RedisTimeoutError,
    SharedClient,
    reason,
)
from .config import Config

__all__ = ["Announcement", "Backoff", "Bus", "BusUnavailable", "Subscription"]

logger = logging.getLogger(__name__)

#: Seconds of silence after which the server is asked for a sign of life.
PING_AFTER_SECONDS = 3.0
#: Seconds of silence after which the connection counts as dead.
DEAD_AFTER_SECONDS = 8.0
#: Seconds for which a server that has let a change wait is not tried again.
LEAVE_SILENT_SECONDS = 4.0


@dataclass(frozen=True, slots=True)
class Announcement:
    """News of a revision.

    :ivar namespace: whose; ``None`` in a message that could not be understood
    """

    namespace: str | None
    lineage: str = ""
    revision: int = 0

    def encode(self) -> str:
        """Return the message as it is published."""
        fields = {"namespace": self.namespace, "lineage": self.lineage, "revision": self.revision}
        return json.dumps(fields)

    @classmethod
    def decode(cls, message: object) -> Announcement:
        """Return what a message says; anybody may publish, so anything may stand in it."""
        try:
            fields = json.loads(message) if isinstance(message, str | bytes) else None
        except (ValueError, RecursionError):
            fields = None
        if not isinstance(fields, dict):
            return cls(None)
        namespace, lineage, revision = (
            fields.get(key) for key in ("namespace", "lineage", "revision")
        )
        understood = isinstance(namespace, str) and isinstance(lineage, str)
        if not understood or not isinstance(revision, int) or isinstance(revision, bool):
            return cls(None)
        return cls(str(namespace), str(lineage), revision)


class Backoff:
    """How long to wait before the next try: doubling, capped, and never the same on two hosts."""

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
        return seconds * random.uniform(0.5, 1.0)  # noqa: S311  # spreads load, guards nothing


class Bus:
    """One channel of one Redis."""

    def __init__(self, config: Config, client: SharedClient) -> None:
        """Connect to nothing yet."""
        self.channel = config.redis_channel
        self.location = client.location
        self._client = client
        self._poll_seconds = config.poll_seconds
        self._down_until = 0.0
        self._backoff = Backoff(0.2, 2.0)
        self._said_down = False

    def publish(self, announcement: Announcement) -> bool:
        """Announce a revision and return whether Redis took it; never raises.

        While Redis is away it is tried only now and then, so that a change does not wait for it
        each time: other hosts learn of it by polling SQL.
        """
        if time.monotonic() < self._down_until:
            return False
        try:
            self._publish(announcement.encode())
        except FAILURES as error:
            silent = isinstance(error, RedisTimeoutError)
            pause_seconds = LEAVE_SILENT_SECONDS if silent else self._backoff.next_seconds()
            self._down_until = time.monotonic() + pause_seconds
            if not self._said_down:
                logger.warning(
                    "waffle: revision %d could not be announced on Redis at %s (%s). It is "
                    "committed, and served on this host; other hosts see it when they next poll "
                    "SQL, within %g s, or once Redis is back.",
                    announcement.revision,
                    self.location,
                    reason(error),
                    self._poll_seconds,
                )
            self._said_down = True
            return False
        self._backoff.reset()
        self._said_down = False
        return True

    def _publish(self, message: str) -> None:
        try:
            self._client.get().publish(self.channel, message)
        except RedisConnectionError:
            # A pooled connection that died while nobody used it; a new one may do.
            self._client.get().publish(self.channel, message)

    @contextmanager
    def subscribe(self) -> Iterator[Subscription]:
        """Give a subscription that the server has confirmed.

        :raises BusUnavailable: Redis did not answer
        """
        pubsub = None
        try:
            pubsub = self._client.get().pubsub()
            pubsub.subscribe(self.channel)
            subscription = Subscription(pubsub)
            subscription.wait_for_confirmation()
            self._down_until = 0.0  # it answers, so changes may be announced again
        except FAILURES as error:
            _close(pubsub)
            raise BusUnavailable(reason(error)) from error
        try:
            yield subscription
        finally:
            _close(pubsub)


class Subscription:
    """A confirmed subscription, on a connection that is known to be alive."""

    def __init__(self, pubsub: Any) -> None:
        self._pubsub = pubsub
        self._heard = time.monotonic()
        self._asked = False

    def wait_for_confirmation(self) -> None:
        """Wait until the server has confirmed.

        :raises RedisTimeoutError: it did not
        """
        deadline = time.monotonic() + ANSWER_SECONDS
        while time.monotonic() < deadline:
            if self._next(deadline - time.monotonic()) is not None:
                return
        message = f"no answer within {ANSWER_SECONDS:g} s"
        raise RedisTimeoutError(message)

    def receive(self, timeout_seconds: float) -> list[Announcement]:
        """Return all messages that have come, waiting for the first at most *timeout_seconds*.

        :raises BusUnavailable: the connection is dead
        """
        try:
            self._keep_alive()
            return list(self._messages(timeout_seconds))
        except FAILURES as error:
            raise BusUnavailable(reason(error)) from error

    def _messages(self, timeout_seconds: float) -> Iterator[Announcement]:
        """Yield what has come, waiting for the first only."""
        for _ in range(_MOST_AT_ONCE):
            message = self._next(timeout_seconds)
            if message is None:
                return
            timeout_seconds = 0
            if message["type"] == "message":
                yield Announcement.decode(message["data"])
            elif message["type"] == "subscribe":
                # redis-py reconnected by itself: what was said in between is lost.
                yield Announcement(None)

    def _next(self, timeout_seconds: float) -> dict[str, Any] | None:
        message: dict[str, Any] | None = self._pubsub.get_message(timeout=max(timeout_seconds, 0))
        if message is not None:
            self._heard = time.monotonic()
            self._asked = False
        return message

    def _keep_alive(self) -> None:
        """Ask a silent server for a sign of life, and give up on one that owes it too long.

        :raises RedisTimeoutError: it owes it too long
        """
        silent_seconds = time.monotonic() - self._heard
        if silent_seconds > DEAD_AFTER_SECONDS:
            message = f"no sign of life for {silent_seconds:.0f} s"
            raise RedisTimeoutError(message)
        if silent_seconds > PING_AFTER_SECONDS and not self._asked:
            self._asked = True
            self._pubsub.ping()


#: Messages taken in one go, so that a flood cannot keep a listener from its other work.
_MOST_AT_ONCE = 1000


def _close(pubsub: Any) -> None:
    if pubsub is not None:
        with suppress(*FAILURES):  # it is broken, which is why it is closed
            pubsub.close()
