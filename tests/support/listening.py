"""Two hosts in one process, as whole applications: one that writes, and one that listens."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from tests.conftest import Apps
from tests.support.listening_host import NEVER_SECONDS
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until
from uwsgi_waffle import WaffleConf
from uwsgi_waffle.process.state import State

CONFS = {"SIZE": {"default": 1}}
#: News takes milliseconds; this only ends a test that would never end.
SOON_SECONDS = 15.0


@contextmanager
def counted(state: State) -> Iterator[list[str]]:
    """Give a list of the statements that a host sends to SQL."""
    statements: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)

    engine = state.store.database.engine
    sa.event.listen(engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        sa.event.remove(engine, "before_cursor_execute", note)


def messages(records: list[logging.LogRecord], part: str) -> list[str]:
    """Return the log messages that hold a text."""
    return [record.getMessage() for record in records if part in record.getMessage()]


class TwoHosts:
    """A host that writes and does not listen, and one that listens in a thread of its own."""

    def __init__(
        self,
        apps: Apps,
        redis_url: str | None = None,
        *,
        poll_seconds: float = NEVER_SECONDS,
        redis: Any = None,
    ) -> None:
        """Set up both hosts; with *redis*, a ready client, in place of a URL."""
        config = {
            "WAFFLE_CONFS": CONFS,
            "WAFFLE_MULTIPROC": True,
            "WAFFLE_POLL_SECONDS": poll_seconds,
            "WAFFLE_REDIS_URL": redis_url,
        }
        self.here: WaffleConf[Any] = WaffleConf(redis=redis)
        self.writer = apps.init(
            self.here, apps.flask(host="here", WAFFLE_LISTENER="none", **config)
        )
        app = apps.flask(host="there", WAFFLE_LISTENER="thread", **config)
        self.listener = apps.init(WaffleConf(redis=redis), app)

    def listen(self, redis_server: RedisServer | None = None) -> None:
        """Start the listener, and return when that server has its subscription."""
        self.listener.adopt_process()
        if redis_server is not None:
            self.wait_until_heard_by(redis_server)

    def wait_until_heard_by(self, redis_server: RedisServer) -> None:
        """Return when a server has the one subscription of the listener, and it has read SQL."""
        wait_until(self.is_live, SOON_SECONDS, "the listener hears Redis")
        wait_until(
            lambda: redis_server.subscribers() == 1, SOON_SECONDS, "one connection is subscribed"
        )

    def is_live(self) -> bool:
        """Whether the listener says that it hears Redis."""
        return any(p.listener.state == "live" for p in self.listener.host.slots.living())

    @property
    def size(self) -> object:
        """What the listening host serves; looking at it makes it look at nothing."""
        return self.listener.app.config["SIZE"]

    def change(self, size: int) -> bool:
        """Change the setting on the writing host, and return whether Redis took the news."""
        return self.here.update({"SIZE": size}).announced

    def wait_until_serving(self, size: int, seconds: float = SOON_SECONDS) -> None:
        """Return when the listening host serves a value."""
        wait_until(lambda: self.size == size, seconds, f"the other host serves SIZE = {size}")

    def still_listens(self) -> bool:
        """Whether the listener's thread is alive."""
        environment = self.listener.environment
        return environment is not None and environment.is_alive()


def position(state: State) -> tuple[str, int]:
    """Return lineage and revision of what a process serves."""
    return state.serving.current.lineage, state.serving.current.revision
