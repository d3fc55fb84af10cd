"""How often one host of many asks SQL, so that all of them together ask it few times a second."""

from __future__ import annotations

from collections.abc import Callable

from uwsgi_waffle.server.concurrency import spread

__all__ = ["Pace"]

#: How often in a second all hosts of a database ask SQL together, about, where they are many.
QUESTIONS_PER_SECOND = 12.0
#: A fleet that is no larger does not spread what it asks.
SMALL_FLEET = 25
#: Seconds within which each host reads what it knows to have missed.
MOST_READ_SECONDS = 8.0
#: Seconds between two polls of a host in the largest fleet, unless it is to poll more seldom.
MOST_POLL_SECONDS = 120.0
#: Each listener of a fleet that is no larger holds its connection to SQL between two questions.
HELD_CONNECTIONS = 10
#: The least of a poll interval that a host waits, in a small fleet and in another, so that hosts do
#: not keep step; the most is all of it.
SMALL_JITTER, JITTER = 0.75, 0.5


class Pace:
    """What one host waits before it asks SQL.

    :ivar poll_seconds: the configured interval between two polls
    :ivar hosts: how many hosts listen, as SQL has them registered
    """

    def __init__(
        self, poll_seconds: float, uniform: Callable[[float, float], float] = spread
    ) -> None:
        """Count this host alone.

        :param poll_seconds: as configured
        :param uniform: returns a random number between two
        """
        self.poll_seconds = poll_seconds
        self._uniform = uniform
        self.hosts = 1

    @property
    def is_spread(self) -> bool:
        """Whether hosts are so many that they must not all ask at once."""
        return self.hosts > SMALL_FLEET

    @property
    def holds_connection(self) -> bool:
        """Whether a listener may keep its connection to SQL between two questions."""
        return self.hosts <= HELD_CONNECTIONS

    def until_comparison(self) -> float:
        """Return the seconds to wait before a question that all hosts ask for one reason."""
        return self._uniform(0.0, self.window_seconds)

    def until_read(self) -> float:
        """Return the seconds to wait before a read of what this host has missed, and knows of."""
        return self._uniform(0.0, min(self.window_seconds, MOST_READ_SECONDS))

    def until_poll(self, *, is_live: bool) -> float:
        """Return the seconds to wait before the next poll.

        :param is_live: whether Redis is heard, so that a poll is there for what it may have lost
        """
        seconds = self.poll_seconds
        if is_live:
            wanted = min(self.hosts / QUESTIONS_PER_SECOND, MOST_POLL_SECONDS)
            seconds = max(seconds, wanted)
        return seconds * self._uniform(JITTER if self.is_spread else SMALL_JITTER, 1.0)

    @property
    def window_seconds(self) -> float:
        """Within how many seconds all hosts ask where each has one question; 0 if at once."""
        return max(0, self.hosts - SMALL_FLEET) / QUESTIONS_PER_SECOND
