"""URLs that name several servers."""

from __future__ import annotations

from typing import Any

import pytest
import redis
import redis.asyncio
import redis.sentinel

from tests.bus.conftest import config_at
from tests.conftest import Apps
from tests.support.listening import Host
from uwsgi_waffle import ConfigError
from uwsgi_waffle.bus.addresses import Servers, servers_of
from uwsgi_waffle.bus.client import SharedClient

PASSWORD = "Geheim-7"  # noqa: S105  # of no server
SENTINELS = (
    "rediss+sentinel://user:Geheim%407@one,[::1]:7000/mymaster/2?sentinel_password=s%26t&a=b"
)


def test_a_url_of_sentinels() -> None:
    assert servers_of(SENTINELS) == Servers(
        (("one", 26379), ("::1", 7000)),
        "mymaster",
        "rediss://user:Geheim%407@one/2?a=b",
        {"password": "s&t"},
    )


def test_a_url_of_a_cluster() -> None:
    nodes = (("one", 6379), ("two", 7000))
    assert servers_of("redis+cluster://one,two:7000") == Servers(nodes, "", "redis://one/?", {})


@pytest.mark.parametrize("url", ["redis://one:1/0", "unix:///run/a+b.sock", "rediss://one"])
def test_a_url_of_one_server(url: str) -> None:
    assert servers_of(url) is None


def test_what_holds_for_the_master_is_said_to_it_and_not_to_the_sentinels() -> None:
    url = SENTINELS.replace("&a=b", "&ssl_ca_certs=/ca.crt")
    pool = SharedClient(config_at(url)).get().connection_pool  # type: ignore[attr-defined]  # it is one
    options = pool.connection_kwargs
    assert (options["username"], options["password"], options["db"]) == ("user", "Geheim@7", 2)
    assert type(pool.make_connection()).__name__ == "SentinelManagedSSLConnection"
    first = pool.sentinel_manager.sentinels[0].connection_pool
    told = first.connection_kwargs
    assert (told.get("username"), told["password"], told["host"]) == (None, "s&t", "one")
    assert (told["ssl_ca_certs"], told["socket_timeout"]) == ("/ca.crt", 1.0)
    assert type(first.make_connection()).__name__ == "SSLConnection"


def test_a_cluster_that_is_away_does_not_keep_an_application_from_starting() -> None:
    client = SharedClient(config_at("redis+cluster://127.0.0.1:1"))
    assert client.location == "redis+cluster://127.0.0.1:1"


SENTINEL: Any = redis.sentinel.Sentinel([])  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    "given",
    [
        redis.asyncio.Redis(),
        redis.asyncio.RedisCluster("127.0.0.1"),
        SENTINEL,
        redis.ConnectionPool(),
        f"redis://:{PASSWORD}@127.0.0.1",
    ],
    ids=lambda given: type(given).__name__,
)
def test_what_is_no_ready_client_is_an_error_at_the_start(given: Any, apps: Apps) -> None:
    """Else each change would fail, and each turn of the listener."""
    with pytest.raises(ConfigError, match=r"ready client .* An address goes to WAFFLE_REDIS_URL"):
        Host(apps, given=given)
    with pytest.raises(ConfigError) as caught:
        SharedClient(config_at("redis://127.0.0.1"), given)
    assert PASSWORD not in str(caught.value)


def test_ready_clients_are_taken() -> None:
    for given in (redis.Redis(), SENTINEL.master_for("main")):
        assert SharedClient(config_at("redis://127.0.0.1"), given).get() is given
