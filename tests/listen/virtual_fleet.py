"""Many listeners in virtual time: ours, with a Redis and a database that are a few lines each."""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from uwsgi_waffle.bus.announcements import MAX_MESSAGE_BYTES, Announcement
from uwsgi_waffle.bus.client import BusUnavailable
from uwsgi_waffle.bus.subscription import Heard
from uwsgi_waffle.listen.introduction import Introduction
from uwsgi_waffle.listen.listener import Listener
from uwsgi_waffle.listen.pace import Pace
from uwsgi_waffle.listen.reconcile import Reconciler
from uwsgi_waffle.listen.telling import Teller
from uwsgi_waffle.values.position import Position
from uwsgi_waffle.values.snapshot import Delta, Record

#: Seconds of virtual time in which a message arrives.
STEP_SECONDS = 0.05
#: Seconds between two turns of a listener that receives nothing.
TURN_SECONDS = 0.25
KEYS = ("k" * 64,)
OPEN_NAMES = frozenset({"SIZE", "LARGE"})
#: The hosts are known, so none introduces itself.
NO_REDIS: Any = SimpleNamespace(multiproc=False)


class VirtualHost:
    """A host snapshot, as far as a listener needs one."""

    is_shared = False
    slots = SimpleNamespace(is_registered=True)
    keys = KEYS

    def __init__(self, record: Record) -> None:
        self.record = record
        self.sequence = 1

    @property
    def position(self) -> Position:
        """The state that it serves."""
        return self.record.position

    def read(self) -> tuple[int, Record]:
        """Return what it serves."""
        return self.sequence, self.record

    def publish(self, record: Record, **_: object) -> int | None:
        """Serve a record, if it is later."""
        if not record.position.supersedes(self.position):
            return None
        self.record, self.sequence = record, self.sequence + 1
        return self.sequence

    def verify(self) -> None:
        """Do nothing."""

    def note_sql(self, *, answers: bool) -> None:
        """Do nothing."""

    beat = verify


class VirtualFleet:
    """Listeners of as many hosts, one channel, and one database.

    :ivar asked: when each question to SQL was asked
    """

    def __init__(self, count: int, poll_seconds: float = 5.0, *, seed: int = 1) -> None:
        """Start the hosts at one state.

        :param seed: of all that is random
        """
        self.now = 1000.0
        self.record = Record(Position("a" * 16, 1, "b" * 16), {"SIZE": "1"}, KEYS)
        self.asked: list[float] = []
        self.is_up = True
        self.is_open = True
        self.queues: dict[int, deque[Announcement]] = {}
        uniform = random.Random(seed).uniform  # noqa: S311  the same each time
        self.hosts = [VirtualHost(self.record) for _ in range(count)]
        self.listeners = [
            self._listener(number, Pace(poll_seconds, uniform)) for number in range(count)
        ]
        self._turn_at = [self.now + uniform(0, TURN_SECONDS) for _ in range(count)]
        self._stop: Any = SimpleNamespace(is_set=lambda: False, wait=lambda _seconds: False)
        for listener in self.listeners:
            listener.turn(0, self._stop)  # it connects and compares
        for listener in self.listeners:
            pace = listener._pace  # noqa: SLF001
            pace.hosts = count  # as its reporter has counted
            # Where the hosts have run for long, and keep no step.
            listener._next_poll = self.now + uniform(0, pace.until_poll(is_live=True))  # noqa: SLF001
        self.asked.clear()

    def _listener(self, number: int, pace: Pace) -> Listener:
        host: Any = self.hosts[number]
        store: Any = SimpleNamespace(
            peek=lambda: self._ask().position,
            read=self._ask,
            database=SimpleNamespace(url="virtual", close=lambda: None),
        )
        bus: Any = SimpleNamespace(
            location="virtual",
            is_resting=False,
            subscribe=lambda: self._subscribe(number),
            publish=lambda position, delta=None: self.announce(position, delta),
            tell=self._tell,
        )
        return Listener(
            bus=bus,
            host=host,
            introduction=Introduction(
                NO_REDIS, host, store, Reconciler(store, host, pace.poll_seconds), f"host-{number}"
            ),
            teller=Teller(bus, host, pace, OPEN_NAMES),
            on_move=lambda: None,
        )

    def _tell(self, delta: Delta) -> None:
        if Announcement("default", delta.position, delta).has_room(KEYS):
            self.announce(delta.position, delta)

    def _ask(self) -> Record:
        self.asked.append(self.now)
        return self.record

    @contextmanager
    def _subscribe(self, number: int) -> Iterator[Any]:
        if not self.is_up:
            message = "away"
            raise BusUnavailable(message)
        queue = self.queues[number] = deque()

        def receive(_timeout: float) -> Heard:
            if self.queues.get(number) is not queue:
                message = "gone"
                raise BusUnavailable(message)
            heard = Heard(list(queue))
            queue.clear()
            return heard

        yield SimpleNamespace(receive=receive)

    # -- what happens to it -------------------------------------------------------------------

    def commit(self, **rows: str) -> Delta:
        """Change the database, and return what changed."""
        delta = Delta(self.record.position, self.record.position.next(), rows)
        after = delta.apply(self.record)
        assert after is not None
        self.record = after
        return delta

    def announce(self, position: Position, delta: Delta | None = None) -> bool:
        """Announce a state to all that are connected."""
        message = Announcement("default", position, delta)
        if len(message.encode(KEYS)) > MAX_MESSAGE_BYTES or not message.has_room(KEYS):
            message = message.without_delta()
        for queue in self.queues.values():
            queue.append(message)
        return bool(self.queues)

    def lose_redis(self) -> None:
        """Have Redis end."""
        self.is_up = False
        self.queues.clear()

    def run(self, seconds: float) -> None:
        """Let so many seconds pass."""
        end = self.now + seconds
        while self.now < end:
            self.now += STEP_SECONDS
            for number, listener in enumerate(self.listeners):
                is_lost = listener.is_live and number not in self.queues
                if self._turn_at[number] <= self.now or self.queues.get(number) or is_lost:
                    self._turn_at[number] = self.now + TURN_SECONDS
                    listener.turn(0, self._stop)

    def seconds_until_right(self, most: float) -> float:
        """Let time pass until every host serves what the database holds."""
        began = self.now
        while self.behind():
            assert self.now - began < most, f"{self.behind()} hosts are behind"
            self.run(STEP_SECONDS)
        return self.now - began

    def behind(self) -> int:
        """Return how many hosts do not serve what the database holds."""
        return sum(host.position != self.record.position for host in self.hosts)

    def peak(self) -> int:
        """Return the most questions to SQL within one second, wherever it begins."""
        steps = Counter(round((at - 1000.0) / STEP_SECONDS) for at in self.asked)
        second = round(1 / STEP_SECONDS)
        return max((sum(steps[start + n] for n in range(second)) for start in steps), default=0)
