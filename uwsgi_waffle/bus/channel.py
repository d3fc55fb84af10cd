"""The channel on Redis where hosts announce states to each other.

Publish and subscribe may lose messages, so nothing relies on it: a listener reads SQL after every
(re)connection, and polls.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from uwsgi_waffle.config import Config
from uwsgi_waffle.server.concurrency import Backoff
from uwsgi_waffle.values.position import Position
from uwsgi_waffle.values.snapshot import Delta

from .announcements import Announcement, prepare
from .client import BusUnavailable, Patience, SharedClient, failures, is_silence, reason
from .subscription import Subscription

__all__ = ["Bus"]

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")

#: Seconds for which a server that did not answer is not tried again.
LEAVE_SILENT_SECONDS = 4.0


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
            prepare()
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
