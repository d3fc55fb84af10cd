"""A host that listens in a thread, and another one that writes: the parts below the extension."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from flask import Flask
from uwsgi_waffle.server.environment import ThreadEnvironment

from tests.support.waiting import wait_until
from uwsgi_waffle.bus.announcements import Announcement, Bus
from uwsgi_waffle.bus.client import RedisClient, SharedClient
from uwsgi_waffle.config import Config
from uwsgi_waffle.host import HostSnapshot
from uwsgi_waffle.listen.listener import Listener, run
from uwsgi_waffle.listen.reconcile import Reconciler
from uwsgi_waffle.sql.store import RowChange, Signature, Store
from uwsgi_waffle.values.snapshot import Record

#: So long that nothing in a test that uses it waits for a poll.
NEVER_SECONDS = 3600
#: Shorter than in earnest, as a test that something does not happen waits for a few turns.
QUICK_TURN_SECONDS = 0.05


def config_of(database_uri: str, redis_url: str | None = None, **keys: Any) -> Config:
    """Return the configuration that an application with these keys has."""
    app = Flask("tests")
    app.config["WAFFLE_DATABASE_URI"] = database_uri
    app.config["WAFFLE_REDIS_URL"] = redis_url
    app.config.update({f"WAFFLE_{key.upper()}": value for key, value in keys.items()})
    return Config.from_app(app)


def bus_of(config: Config, given: RedisClient | None = None) -> Bus:
    """Return a bus with a client of its own."""
    return Bus(config, SharedClient(config, given))


class Statements:
    """Every statement that a store has run, for counting."""

    def __init__(self, store: Store) -> None:
        self.seen: list[str] = []
        sa.event.listen(store.database.engine, "before_cursor_execute", self._note)

    def _note(self, _connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        self.seen.append(statement)

    @property
    def reads(self) -> int:
        """How often all rows were read, at the cost of one statement each."""
        return sum("waffle_setting" in statement for statement in self.seen)


class Writer:
    """A host that changes a setting, and says so or not."""

    def __init__(self, config: Config, given: RedisClient | None = None) -> None:
        self.config = config
        self.store = Store(config)
        self.bus = bus_of(config, given)
        self._value = 0

    def write(self) -> Record:
        """Change the setting, and tell nobody."""
        self._value += 1
        change = RowChange("0", str(self._value))
        return self.store.write(lambda _record: {"A": change}, Signature())

    def news(self, record: Record) -> Announcement:
        """Return the news of a record."""
        return Announcement(self.config.namespace, record.lineage, record.revision)

    def write_and_tell(self) -> Record:
        """Change the setting, and announce it."""
        record = self.write()
        assert self.bus.publish(self.news(record))
        return record


@contextmanager
def writing(directory: Path, redis_url: str) -> Iterator[Writer]:
    """Give a host that has made a first revision."""
    made = Writer(config_of(f"sqlite:///{directory}/waffle.db", redis_url))
    made.write()
    try:
        yield made
    finally:
        made.store.database.close()


class ListeningHost:
    """A host with a listener in a thread."""

    def __init__(self, config: Config, directory: Path, given: RedisClient | None = None) -> None:
        self.config = config
        self.store = Store(config)
        self.statements = Statements(self.store)
        self.host = HostSnapshot(directory / "snapshot")
        self.reconciler = Reconciler(self.store, self.host, config.poll_seconds)
        #: Called when the host has moved, as workers are woken.
        self.wake: Callable[[], None] = lambda: None
        #: The positions that the host was at, each time that it was told to have moved.
        self.moves: list[tuple[str, int]] = []
        self.turns = 0
        self._client = SharedClient(config, given)
        self.listener = Listener(
            namespace=config.namespace,
            bus=Bus(config, self._client),
            host=self.host,
            reconciler=self.reconciler,
            poll_seconds=config.poll_seconds,
            moved=self._moved,
        )
        self.environment = ThreadEnvironment()

    def start(self) -> None:
        """Start the loop."""
        self.environment.start(lambda stop: run(self.listener, stop, self._turned))

    def close(self) -> None:
        """Let go of all connections, once the loop has ended."""
        self.store.database.close()
        client: Any = self._client.get()
        client.close()

    def _moved(self) -> None:
        self.wake()
        self.moves.append(self.host.position)

    def _turned(self) -> float:
        self.turns += 1
        return QUICK_TURN_SECONDS

    def wait_for_turns(self, count: int = 2) -> None:
        """Return when the loop has turned so many times more."""
        enough = self.turns + count
        wait_until(lambda: self.turns >= enough, 20, "the listener turns")

    def wait_until_live(self, seconds: float = 10) -> None:
        """Return when the listener hears Redis, and has looked at SQL since."""
        wait_until(lambda: self.listener.is_live, seconds, "the listener hears Redis")
        self.wait_for_turns()

    def wait_until_at(self, record: Record, seconds: float = 10) -> None:
        """Return when the host has taken a record."""
        position = record.lineage, record.revision
        wait_until(lambda: self.host.position == position, seconds, f"the host is at {position}")


@contextmanager
def listening(
    config: Config, directory: Path, given: RedisClient | None = None
) -> Iterator[ListeningHost]:
    """Run a listener until the end of the block, which must find it alive."""
    here = ListeningHost(config, directory, given)
    here.start()
    try:
        yield here
        assert here.environment.is_alive()
    finally:
        here.environment.stop(10)
        here.close()
    assert not here.environment.is_alive(), "the listener ends when it is told to"
