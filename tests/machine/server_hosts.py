"""Hosts of each server: uWSGI, gunicorn."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from tests.machine.hosts import APP, Host
from tests.support import UwsgiServer, other_servers, wait_until
from tests.support.processes import START_SECONDS
from tests.support.uwsgi_server import Options

if TYPE_CHECKING:
    from tests.machine.world import World

__all__ = ["GunicornHost", "UwsgiHost"]

#: What uWSGI logs, and when it is asked again if it does not.
CHAIN_BEGINS, ASK_AGAIN_SECONDS = "chain reload starting", 1.0


class UwsgiHost(Host):
    """uWSGI."""

    server: UwsgiServer

    def __init__(
        self,
        name: str,
        world: World,
        *options: Options,
        abilities: str = "",
        address: str = "127.0.0.1",
    ) -> None:
        """Choose the options; *abilities* are words."""
        super().__init__(name, world, address)
        self.abilities = frozenset(abilities.split())
        merged: dict[str, Any] = {"module": APP, "disable-logging": True, "processes": 3}
        for some in options:
            merged.update(some)
        self.server = UwsgiServer(merged)
        self.port = self.server.port
        path = self.server.directory / "snapshot"
        self._make_writer(path)
        self.server.environment = {**self.environment, "WAFFLE_SNAPSHOT_PATH": str(path)}

    def processes(self) -> dict[str, list[int]]:
        mules = self.server.mule_pids()
        others = {self.server.master_pid, *mules}
        workers = [pid for pid in self.server.pids() if pid not in others]
        return {"uWSGI master": [self.server.master_pid], "uWSGI worker": workers, "mule": mules}

    def fifo(self, command: str) -> bool:
        """Give the master a command, and return whether it took it; returns at once."""
        try:
            self.server.fifo(command)
        except OSError:  # it starts anew at the moment
            return False
        return True

    def begin_chain_reload(self) -> bool:
        """Ask for new workers one after another, and return whether the master took that.

        It drops the request while an earlier one is about to end, though its workers are new.
        """
        begun = self.server.log().count(CHAIN_BEGINS)
        asked_at = -ASK_AGAIN_SECONDS

        def has_begun() -> bool:
            nonlocal asked_at
            if self.server.log().count(CHAIN_BEGINS) > begun:
                return True
            if time.monotonic() - asked_at > ASK_AGAIN_SECONDS:
                asked_at = time.monotonic()
                return not self.fifo("c")
            return False

        wait_until(has_begun, START_SECONDS, f"{self.name} begins a chain reload")
        return self.server.log().count(CHAIN_BEGINS) > begun


class _Gunicorn(other_servers.Gunicorn):
    def program(self) -> list[str]:
        return [*super().program()[:-1], APP]


class GunicornHost(Host):
    """gunicorn, each worker of which may listen for itself."""

    most_subscriptions = 2
    server: other_servers.Gunicorn

    def __init__(self, name: str, world: World, *, worker_class: str = "gthread") -> None:
        """Choose the workers."""
        super().__init__(name, world)
        self.abilities = frozenset(["reload"])
        self.server = _Gunicorn(
            self.environment, worker_class=worker_class, preload=False, workers=2
        )
        self.port = self.server.port
        self._make_writer(self.server.directory / "snapshot")

    def processes(self) -> dict[str, list[int]]:
        return {
            "gunicorn master": [self.server.pid],
            "gunicorn worker": self.server.process.children(),
        }
