"""Announcements on Redis: that a state of the settings exists, and what its commit changed.

Publish and subscribe may lose messages, so nothing relies on it: a listener reads SQL after every
(re)connection, and polls. What a commit changed saves a listener that read if it is at the state
before it. A secret travels only if it is encrypted.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from uwsgi_waffle.config import Config
from uwsgi_waffle.server.concurrency import Backoff
from uwsgi_waffle.values.position import MAX_REVISION, Position
from uwsgi_waffle.values.snapshot import Delta

from .client import (
    ANSWER_SECONDS,
    BusUnavailable,
    Patience,
    SharedClient,
    failures,
    is_silence,
    reason,
)
from .signing import is_signed, sign

__all__ = ["Announcement", "Bus", "Heard", "Subscription"]

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")

#: Seconds of silence after which the server is sent a ping.
PING_AFTER_SECONDS = 3.0
#: Seconds of silence after which the connection counts as dead.
DEAD_AFTER_SECONDS = 8.0
#: Seconds for which a server that did not answer is not tried again.
LEAVE_SILENT_SECONDS = 4.0
#: Largest message; what a commit changed is left out where it would be larger.
MAX_MESSAGE_BYTES = 4_000
#: At most what databases and snapshots hold.
_Revision = Annotated[int, Field(strict=True, ge=0, le=MAX_REVISION)]
_Changed = tuple[str, _Revision, str, dict[str, str | None]]
_Message = tuple[Literal["waffle"], str, str, _Revision, str, _Changed | None, str]


@cache
def _messages() -> TypeAdapter[tuple[Any, ...]]:
    return TypeAdapter(_Message)


@dataclass(frozen=True, slots=True)
class Announcement:
    """That a state of the settings exists.

    :ivar namespace: that of the settings
    :ivar position: the state
    :ivar delta: what its commit changed, where the message has room for it
    """

    namespace: str
    position: Position
    delta: Delta | None = None

    def encode(self, keys: Sequence[str]) -> str:
        """Return the message as it is published, signed by each key."""
        fields = self._fields()
        message = json.dumps([*fields, sign(keys, json.dumps(fields))])
        if self.delta is not None and len(message) > MAX_MESSAGE_BYTES:
            return self.without_delta().encode(keys)
        return message

    def without_delta(self) -> Announcement:
        """Return the announcement of the same state, without what its commit changed."""
        return Announcement(self.namespace, self.position)

    def has_room(self, keys: Sequence[str]) -> bool:
        """Return whether what the commit changed is in the message."""
        return self.delta is not None and self.encode(keys) != self.without_delta().encode(keys)

    def _fields(self) -> list[object]:
        at, delta = self.position, self.delta
        changed = None
        if delta is not None:
            before = delta.before
            changed = [before.lineage, before.revision, before.stamp, dict(delta.rows)]
        return ["waffle", self.namespace, at.lineage, at.revision, at.stamp, changed]

    @classmethod
    def decode(cls, message: object) -> tuple[Announcement, str] | None:
        """Return what a message announces, and its signatures; ``None`` where it is malformed."""
        if not isinstance(message, str | bytes) or len(message) > MAX_MESSAGE_BYTES:
            return None
        try:
            _, namespace, *at, changed, signatures = _messages().validate_json(message)
        except ValidationError:
            return None
        position = Position(*at)
        delta = None if changed is None else Delta(Position(*changed[:3]), position, changed[3])
        return cls(namespace, position, delta), signatures

    def is_signed(self, keys: Sequence[str], signatures: str) -> bool:
        """Return whether one of the signatures is by one of the keys."""
        return is_signed(keys, json.dumps(self._fields()), signatures)


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


class Bus:
    """One channel of one Redis."""

    def __init__(
        self, config: Config, client: SharedClient, keys: Callable[[], Sequence[str]]
    ) -> None:
        """Connect to nothing yet.

        :param keys: returns what signs and verifies at the moment
        """
        self.channel = config.redis_channel
        self.location = client.location
        self._namespace = config.namespace
        self._client = client
        if config.multiproc:
            _messages()  # now, as nothing is shared that is made after a fork
        self._keys = keys
        self._poll_seconds = config.poll_seconds
        self._down_until = 0.0
        self._backoff = Backoff(0.2, 2.0)
        self._logged_down = False

    @property
    def is_resting(self) -> bool:
        """Whether Redis has just failed to answer, and is not tried again yet."""
        return time.monotonic() < self._down_until

    def publish(self, position: Position) -> bool:
        """Announce a state, and return whether a subscriber received it; never raises."""
        return self.announce(position)()

    def announce(
        self,
        position: Position,
        keys: Sequence[str] | None = None,
        delta: Delta | None = None,
        patience: Patience | None = None,
    ) -> Callable[[], bool]:
        """Begin to announce a state; never raises.

        Other hosts see what is not announced by polling SQL.

        :param keys: what signs it; the present keys if left out
        :param delta: what its commit changed
        :param patience: how long to wait for Redis
        :return: what waits for Redis, and returns whether a subscriber received it
        """
        keys = self._keys() if keys is None else keys
        if not keys:
            return lambda: False
        message = Announcement(self._namespace, position, delta).encode(keys)
        answer = self.ask(
            lambda: int(self._client.get().publish(self.channel, message)), patience or Patience()
        )

        def is_received() -> bool:
            receivers = answer()
            if receivers is None:
                return False
            self._backoff.reset()
            self._logged_down = False
            return receivers > 0

        return is_received

    def tell(self, delta: Delta) -> None:
        """Announce a state that others may have missed, if a message has room for what led to it.

        Else they would only learn that they must read SQL, as most of them have yet to find out.
        """
        if Announcement(self._namespace, delta.position, delta).has_room(self._keys()):
            self.announce(delta.position, delta=delta)()

    def ask(
        self, question: Callable[[], Answer], patience: Patience
    ) -> Callable[[], Answer | None]:
        """Ask Redis for a writer; neither this nor what it returns raises.

        After a failure it is left alone for a moment, so that few changes wait for it.

        :return: what waits for the answer, and returns ``None`` where there is none
        """
        if self.is_resting:
            return lambda: None
        wait = patience.ask(question)

        def answer() -> Answer | None:
            try:
                return wait()
            except BusUnavailable as error:
                self._rest(error)
            except failures() as error:
                self._rest(error)
            return None

        return answer

    def _rest(self, error: BaseException) -> None:
        """Leave Redis alone for a moment after a failure, which is logged once."""
        silent = is_silence(error) or is_silence(error.__cause__)
        pause_seconds = LEAVE_SILENT_SECONDS if silent else self._backoff.next_seconds()
        self._down_until = time.monotonic() + pause_seconds
        if not self._logged_down:
            logger.warning(
                "waffle: changes could not be announced on Redis at %s (%s). They are committed "
                "and served on this host; other hosts see them when they next poll SQL, within "
                "%g s, or once Redis is back.",
                self.location,
                reason(error),
                self._poll_seconds,
            )
        self._logged_down = True

    @contextmanager
    def subscribe(self) -> Iterator[Subscription]:
        """Yield a subscription that the server has confirmed.

        :raises BusUnavailable: Redis did not answer
        """
        pubsub: Any = None
        try:
            pubsub = self._client.pubsub()
            pubsub.subscribe(self.channel)
            subscription = Subscription(pubsub, self._namespace, self._keys)
            subscription.wait_for_confirmation()
            self._down_until = 0.0  # it answers, so changes may be announced again
        except failures() as error:
            self._client.close_pubsub(pubsub)
            self._client.look_for_nodes()
            raise BusUnavailable(reason(error)) from error
        try:
            yield subscription
        finally:
            self._client.close_pubsub(pubsub)


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


#: Messages received in one go, so that a flood cannot keep a listener from its other work.
_MAX_AT_ONCE = 1000
