"""Other ways to run Redis: watched by a Sentinel, and as a Cluster of one node.

What redis-py has for them it has left without types.
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
from tests.support.waiting import wait_until

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
    """A Cluster of one node that holds all hash slots."""

    name = "cluster"

    def __init__(self) -> None:
        """Choose where it is reached; nothing runs yet."""
        # Left alone it takes a port 10,000 above its own, which a client may have.
        options = ["--cluster-enabled", "yes", "--cluster-port", str(free_port())]
        super().__init__(extra_options=options)

    def start(self) -> None:
        """Start the node, and return when the Cluster is whole."""
        super().start()
        if not self._ask("CLUSTER SLOTS"):  # a node that starts again knows its own
            self._ask("CLUSTER ADDSLOTSRANGE", 0, HASH_SLOTS - 1)
        wait_until(self._is_whole, 20, "the Cluster is whole")

    def _is_whole(self) -> bool:
        return bool(self._ask("CLUSTER INFO")["cluster_state"] == "ok")

    def _ask(self, *command: object) -> Any:
        with self.client() as client:
            return client.execute_command(*command)

    def cluster_client(self) -> RedisCluster:
        """Return a client of the Cluster."""
        return RedisCluster(host="127.0.0.1", port=self.port, socket_timeout=1.0)


@contextmanager
def watched_redis() -> Iterator[tuple[RedisServer, redis.Redis]]:
    """Run a Redis with a Sentinel; give both the Redis and a client by way of the Sentinel."""
    with RedisServer() as server, SentinelServer(server) as sentinel:
        yield server, sentinel.client()
