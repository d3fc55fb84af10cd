"""Hosts in this process: applications with a host snapshot each, that listen in a thread."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from tests.conftest import Apps
from tests.support.redis_server import RedisServer
from tests.support.waiting import NEVER_SECONDS, SOON_SECONDS, wait_until
from uwsgi_waffle import WaffleConf
from uwsgi_waffle.server.concurrency import StopEvent
from uwsgi_waffle.sql.store import RowChange, Signature
from uwsgi_waffle.values.position import Position
from uwsgi_waffle.values.snapshot import Record

__all__ = ["CONFS", "Host", "messages"]

CONFS = {"SIZE": {"default": 1}}


def messages(records: list[logging.LogRecord], part: str) -> list[str]:
    """Return the log messages that hold a text."""
    return [record.getMessage() for record in records if part in record.getMessage()]


class Host:
    """An application on a host of its own, that can write and listen."""

    def __init__(
        self,
        apps: Apps,
        name: str = "here",
        redis: RedisServer | str | None = None,
        *,
        listens: bool = True,
        given: Any = None,
        **config: Any,
    ) -> None:
        """Set the application up; nothing listens before :meth:`listen`.

        :param name: hosts of one name share a host snapshot
        :param redis: a server, or its URL
        :param listens: whether it may listen, else it only writes
        :param given: a ready client in place of a URL
        :param config: configuration keys without their ``WAFFLE_``
        """
        keys = {
            "CONFS": CONFS,
            "MULTIPROC": True,
            "LISTENER": "thread" if listens else "none",
            "POLL_SECONDS": NEVER_SECONDS,
            "REDIS_URL": redis.url if isinstance(redis, RedisServer) else redis,
            **{key.upper(): value for key, value in config.items()},
        }
        app = apps.flask(host=name, **{f"WAFFLE_{key}": value for key, value in keys.items()})
        self.waffle: WaffleConf[Any] = WaffleConf(redis=given)
        self.state = apps.init(self.waffle, app)
        self.app = app
        #: Called when the host has moved, as workers are woken.
        self.on_move: Callable[[], None] = lambda: None
        #: The positions that the host was at, each time that it moved.
        self.moves: list[Position] = []
        self.turns = 0
        self._run = self.state.loop.run
        self.state.loop.run = self._listen  # type: ignore[method-assign]

    # -- listening ----------------------------------------------------------------------------

    def listen(self, heard_by: RedisServer | None = None) -> None:
        """Start the listener; return when it has read SQL and is heard by that server, if any."""
        self.state.adopt_process()
        if heard_by is not None:
            self.wait_until_heard_by(heard_by)

    def _listen(
        self,
        on_move: Callable[[], None],
        stop: StopEvent,
        on_turn: Callable[[], None] = lambda: None,
    ) -> None:
        def moved() -> None:
            self.on_move()
            on_move()
            self.moves.append(self.state.host.position)

        def turned() -> None:
            on_turn()
            self.turns += 1

        self._run(moved, stop, turned)

    @property
    def listener(self) -> str:
        """What the listener records of itself: ``live``, ``polling`` or ``absent``."""
        states = {p.listener.state for p in self.state.host.slots.living()}
        return next((state for state in ("live", "polling") if state in states), "absent")

    def wait_until_listener(self, state: str, seconds: float = SOON_SECONDS) -> None:
        """Return when the listener is ``live``, ``polling`` or ``absent``."""
        wait_until(lambda: self.listener == state, seconds, f"the listener is {state}")

    def wait_until_heard_by(self, server: RedisServer) -> None:
        """Return when a server has the one subscription of the listener, which has read SQL."""
        self.wait_until_listener("live")
        server.wait_for_subscribers(1)

    def wait_for_turns(self, count: int = 2) -> None:
        """Return when the listener has turned so many times more."""
        enough = self.turns + count
        wait_until(lambda: self.turns >= enough, SOON_SECONDS, "the listener turns")

    def still_listens(self) -> bool:
        """Return whether the listener's thread is alive."""
        environment = self.state.environment
        return environment is not None and environment.is_alive()

    # -- writing ------------------------------------------------------------------------------

    def change(self, size: int) -> bool:
        """Change the setting, and return whether Redis delivered the announcement."""
        return self.waffle.update({"SIZE": size}).announced

    def commit(self, size: int | None = None) -> Record:
        """Change the setting in SQL alone, to a new value if none is given."""
        size = self.state.store.peek().revision + 1001 if size is None else size
        change = RowChange("0", str(size))
        return self.state.store.write(lambda _record: {"SIZE": change}, Signature())

    def announce(self, record: Record) -> bool:
        """Announce a record, and return whether Redis delivered the announcement."""
        return self.state.bus.announce(record.position, record.keys)()

    def commit_and_announce(self) -> Record:
        """Change the setting in SQL, and announce it to at least one subscriber."""
        record = self.commit()
        assert self.announce(record)
        return record

    # -- what it serves -----------------------------------------------------------------------

    @property
    def size(self) -> object:
        """What this host serves; reading it compares with nothing."""
        return self.app.config["SIZE"]

    @property
    def position(self) -> Position:
        """The state that this host serves."""
        return self.state.serving.current.position

    def wait_until_serving(self, size: int, seconds: float = SOON_SECONDS) -> None:
        """Return when this host serves a value."""
        wait_until(lambda: self.size == size, seconds, f"the host serves SIZE = {size}")

    def wait_until_at(self, wanted: Record | Position, seconds: float = SOON_SECONDS) -> None:
        """Return when the host snapshot is at a record."""
        position = wanted.position if isinstance(wanted, Record) else wanted
        at = self.state.host
        wait_until(lambda: at.position == position, seconds, f"the host is at {position}")
