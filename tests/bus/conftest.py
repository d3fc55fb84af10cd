"""What the tests of Redis share: a bus and reports that no application owns, and their entries."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import redis
from flask import Flask

from tests.support import RedisServer, wait_until
from tests.support.waiting import SOON_SECONDS
from uwsgi_waffle.bus.channel import Bus
from uwsgi_waffle.bus.client import SharedClient
from uwsgi_waffle.bus.fleet import HostStatus
from uwsgi_waffle.bus.reports import HostReports, encode_host
from uwsgi_waffle.bus.signing import sign
from uwsgi_waffle.config import Config
from uwsgi_waffle.host.processes import ListenerState, ProcessSlot
from uwsgi_waffle.values.position import Position
from uwsgi_waffle.values.snapshot import RefusedValue

LINEAGE, OTHER_LINEAGE = "00000000000000aa", "00000000000000bb"
POSITION = Position(LINEAGE, 7, "0123456789abcdef")
#: Of our database, of ours before a rotation, and of another database.
KEY, OLD_KEY, OTHER_KEY = "1" * 64, "2" * 64, "3" * 64

#: Keys of Redis, of our database.
PREFIX = "{waffleconf:default}"
HOSTS, DETAILS = f"{PREFIX}:{LINEAGE}:hosts", f"{PREFIX}:{LINEAGE}:details"
HIGHEST, LINEAGES = f"{PREFIX}:{LINEAGE}:highest", f"{PREFIX}:lineages"
CHANNEL = f"{PREFIX}:{LINEAGE}:reports"
OTHER_ID = "b" * 16


def config_at(url: str | None = None, **keys: Any) -> Config:
    """Return the configuration of an application, whose keys are given without their WAFFLE_."""
    app = Flask("tests")
    app.config["WAFFLE_DATABASE_URI"] = "sqlite://"
    app.config["WAFFLE_REDIS_URL"] = url
    app.config.update({f"WAFFLE_{key.upper()}": value for key, value in keys.items()})
    return Config.from_app(app)


def bus_at(
    url: str | None, given: Any = None, *, signing: Sequence[str] = (KEY,), **keys: Any
) -> Bus:
    """Return a bus that reaches Redis by a URL, or by a ready client."""
    config = config_at(url, **keys)
    return Bus(config, SharedClient(config, given), lambda: signing)


def reports_at(
    url: str | None,
    given: Any = None,
    *,
    signing: Callable[[str], Sequence[str]] = lambda _lineage: (KEY,),
    **keys: Any,
) -> HostReports:
    """Return the reports of hosts on a Redis, likewise."""
    config = config_at(url, **keys)
    return HostReports(config, SharedClient(config, given), signing)


def process_at(position: Position = POSITION, pid: int = 100, **fields: Any) -> ProcessSlot:
    """Return a worker that is woken for changes."""
    values = {"role": "worker", "worker": 1, "master": 99, "since": 0.0, "follows": True, **fields}
    return ProcessSlot(pid=pid, position=position, listener=ListenerState(), **values)


def refusing(position: Position = POSITION, pid: int = 100) -> ProcessSlot:
    """Return a worker whose release refuses a value."""
    refused = RefusedValue("SIZE", "default", "it is too large")
    return process_at(position, pid, refused_count=2, refused=refused)


def host_at(position: Position = POSITION, host_id: str = "a" * 16, **fields: Any) -> HostStatus:
    """Return a host of three processes, all of which serve its position unless fields differ."""
    live = ListenerState("live")
    values = {"name": "web", "following": 3, "served": 3, "listener": live, **fields}
    return HostStatus(id=host_id, position=position, **values)


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    """Give a client that may write anything."""
    with redis_server.client() as made:
        yield made


@pytest.fixture
def ours(redis_server: RedisServer) -> HostReports:
    """Give the reports of our database."""
    return reports_at(redis_server.url)


def sealed(text: str, key: str = KEY) -> str:
    """Return an entry that is signed."""
    return f"{sign([key], text)} {text}"


def entry_of(host: HostStatus, client: Any, *, age: float = 0.0, key: str = KEY) -> str:
    """Return the entry of a host that reported some seconds ago."""
    seconds, microseconds = client.time()
    return sealed(encode_host(host, seconds + microseconds / 1e6 - age), key)


def ids(hosts: tuple[HostStatus, ...]) -> list[str]:
    """Return the ids of hosts."""
    return [host.id for host in hosts]


def commands(client: redis.Redis) -> int:
    """Return how many commands a server has run so far."""
    stats: Any = client.info("commandstats")
    return sum(stat["calls"] for stat in stats.values())


@contextmanager
def acknowledged(ours: HostReports, client: Any) -> Iterator[Any]:
    """Give a function that waits for the next hosts that are published, and their ids."""
    with ours.acknowledgements(LINEAGE) as receive:
        wait_until(
            lambda: dict(client.pubsub_numsub(CHANNEL))[CHANNEL.encode()],
            SOON_SECONDS,
            "it is subscribed",
        )
        yield lambda: wait_until(lambda: ids(tuple(receive(0.1))), SOON_SECONDS, "one has come")
