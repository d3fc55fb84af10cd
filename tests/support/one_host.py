"""Servers that share a host, seen from outside: who follows, who listens, who was called back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.other_servers import WebServer
from tests.support.redis_server import RedisServer
from tests.support.waiting import SOON_SECONDS, wait_until
from uwsgi_waffle import WaffleConf
from uwsgi_waffle.host.records import HostSnapshot

__all__ = ["Site"]


@dataclass
class Site:
    """Servers that share a host, and a writer on another host."""

    servers: list[WebServer]
    writer: WaffleConf[Any]
    redis: RedisServer

    @property
    def pids(self) -> set[int]:
        """The processes that follow."""
        path = Path(self.servers[0].environment["WAFFLE_SNAPSHOT_PATH"])
        return {process.pid for process in HostSnapshot(path).slots.living() if process.follows}

    @property
    def listeners(self) -> set[int]:
        """The processes that listen, by what they say."""
        path = Path(self.servers[0].environment["WAFFLE_SNAPSHOT_PATH"])
        living = HostSnapshot(path).slots.living()
        return {process.pid for process in living if process.listener.state != "absent"}

    def wait_for_one_listener(self) -> int:
        """Return the process that listens, when there is one and one subscription."""

        def is_one() -> bool:
            return len(self.listeners) == self.redis.subscribers() == 1

        wait_until(is_one, SOON_SECONDS, "one process listens, and one is subscribed")
        return self.listeners.pop()

    def change_elsewhere(self, value: int, pids: set[int] | None = None) -> None:
        """Change a setting on another host, and wait until idle processes have called back.

        :param pids: which; ``None`` for those that follow, though some come and go meanwhile
        """
        self.writer.update({"S000": value})

        def all_called_back() -> bool:
            expected = self.pids if pids is None else pids
            return bool(expected) and expected <= self.servers[0].journal.pids(value)

        wait_until(all_called_back, SOON_SECONDS, f"idle processes call back with {value}")
