"""Other ways to run Redis: watched by a Sentinel, and as a Cluster.

What redis-py has for them has no types.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
from redis.cluster import RedisCluster
from redis.sentinel import Sentinel

from tests.support.availability import require_program
from tests.support.processes import LocalServer, free_port
from tests.support.redis_server import RedisServer
from tests.support.waiting import SOON_SECONDS, wait_until

MASTER_NAME = "waffle"
HASH_SLOTS = 16384


class SentinelServer(LocalServer):
    """A Sentinel that watches one Redis."""

    name = "sentinel"

    def __init__(self, watched: RedisServer) -> None:
        """Choose what is watched; nothing runs yet."""
        self._program = require_program("redis-server")
        super().__init__()
        self._watched = watched

    def prepare(self) -> None:
        """Write the file that a Sentinel keeps its state in."""
        (self.directory / "sentinel.conf").write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {self.directory}\n"
            f"sentinel monitor {MASTER_NAME} 127.0.0.1 {self._watched.port} 1\n"
        )

    def command(self) -> list[str]:
        """Return the command that runs the server in the foreground."""
        return [self._program, str(self.directory / "sentinel.conf"), "--sentinel"]

    def answers(self) -> bool:
        """Whether it knows the master."""
        try:
            self.sentinel().discover_master(MASTER_NAME)  # type: ignore[no-untyped-call]
        except redis.ConnectionError:
            return False
        return True

    def sentinel(self) -> Sentinel:
        """Return a client of the Sentinel."""
        return Sentinel(  # type: ignore[no-untyped-call]
            [("127.0.0.1", self.port)], socket_timeout=1.0
        )

    def client(self) -> redis.Redis:
        """Return a client of the master that it knows."""
        master: redis.Redis = self.sentinel().master_for(  # type: ignore[no-untyped-call]
            MASTER_NAME, socket_timeout=1.0
        )
        return master


class ClusterServer(RedisServer):
    """A node of a Cluster, which holds all hash slots unless it is given a range."""

    name = "cluster"

    def __init__(self, first_slot: int = 0, last_slot: int = HASH_SLOTS - 1) -> None:
        """Choose where it is reached; nothing runs yet."""
        self._slots = first_slot, last_slot
        # By default it takes a port 10,000 above its own, which a client may have.
        self.bus_port = free_port()
        options = ["--cluster-enabled", "yes", "--cluster-port", str(self.bus_port)]
        super().__init__(extra_options=options)

    def start(self) -> None:
        """Start the node, and return when the Cluster is whole, if it has one node only."""
        super().start()
        if not self._ask("CLUSTER SLOTS"):  # a node that starts again knows its own
            self._ask("CLUSTER ADDSLOTSRANGE", *self._slots)
        if self._slots == (0, HASH_SLOTS - 1):
            self.wait_until_whole()

    def meet(self, other: ClusterServer) -> None:
        """Join another node, which holds the other slots."""
        self._ask("CLUSTER MEET", "127.0.0.1", other.port, other.bus_port)
        self.wait_until_whole()
        other.wait_until_whole()

    def wait_until_whole(self) -> None:
        """Return when all slots are held by nodes that this one knows."""
        wait_until(self._is_whole, SOON_SECONDS, "the Cluster is whole")

    def _is_whole(self) -> bool:
        return bool(self._ask("CLUSTER INFO")["cluster_state"] == "ok")

    def _ask(self, *command: object) -> Any:
        with self.client() as client:
            return client.execute_command(*command)

    def cluster_client(self) -> RedisCluster:
        """Return a client of the Cluster."""
        return RedisCluster(host="127.0.0.1", port=self.port, socket_timeout=1.0)


@contextmanager
def cluster_of_two() -> Iterator[ClusterServer]:
    """Run a Cluster of two nodes; give one of them."""
    half = HASH_SLOTS // 2
    with ClusterServer(0, half - 1) as one, ClusterServer(half) as other:
        one.meet(other)
        yield one


@contextmanager
def watched_redis() -> Iterator[tuple[RedisServer, redis.Redis]]:
    """Run a Redis with a Sentinel; give both the Redis and a client by way of the Sentinel."""
    with RedisServer() as server, SentinelServer(server) as sentinel:
        yield server, sentinel.client()
