"""Applications on every kind of Redis: changes arrive, and no password is shown."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import redis

from tests.conftest import Apps
from tests.support import RedisServer, wait_until
from tests.support.listening import SOON_SECONDS, TwoHosts, messages
from tests.support.listening_host import bus_of, config_of
from tests.support.redis_kinds import ClusterServer, watched_redis
from uwsgi_waffle.bus.announcements import Announcement, BusUnavailable

PASSWORD = "Geheim-7"  # noqa: S105  made up
NEWS = Announcement("default", "00000000000000aa", 7)
UNUSED_URI = "sqlite://"

KINDS: dict[str, dict[str, Any]] = {
    "password": {"password": PASSWORD},
    "unix socket": {"unix_socket": True},
    "unix socket with a password": {"unix_socket": True, "password": PASSWORD},
    "TLS": {"tls": True},
    "TLS with a password": {"tls": True, "password": PASSWORD},
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_form_of_url_carries_changes_and_shows_no_password(
    apps: Apps, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor while the server is away, when much is said about it."""
    caplog.set_level("DEBUG")
    with RedisServer(**KINDS[kind]) as server:
        hosts = TwoHosts(apps, server.url)
        hosts.listen(server)
        assert hosts.change(2)
        hosts.wait_until_serving(2)
        server.kill()
        wait_until(lambda: not hosts.is_live(), SOON_SECONDS, "the listener notices")
        assert not hosts.change(3)
        shown = [caplog.text, repr(hosts.writer.config), str(hosts.here.status())]
        shown += [repr(p.listener) for p in hosts.listener.host.slots.living()]
    assert len(messages(caplog.records, "cannot be listened to")) == 1
    assert len(messages(caplog.records, "could not be announced")) == 1
    assert hosts.writer.listening.bus.location in caplog.text
    assert PASSWORD not in "\n".join(shown)


@pytest.mark.parametrize("wrong", ["an unknown authority", "no TLS"])
def test_a_server_that_cannot_be_trusted_is_one_that_is_away(
    wrong: str, caplog: pytest.LogCaptureFixture
) -> None:
    with RedisServer(tls=True, password=PASSWORD) as server:
        url = server.url.partition("?")[0]
        if wrong == "no TLS":
            url = url.replace("rediss:", "redis:")
        bus = bus_of(config_of(UNUSED_URI, url))
        assert not bus.publish(NEWS)
        with pytest.raises(BusUnavailable) as caught, bus.subscribe():
            pass
    assert len(messages(caplog.records, "could not be announced")) == 1
    assert PASSWORD not in f"{caplog.text} {caught.value}"


@contextmanager
def cluster() -> Iterator[tuple[RedisServer, Any]]:
    """Run a Cluster of one node; give both the node and a client of the Cluster."""
    with ClusterServer() as server, server.cluster_client() as client:
        yield server, client


ReadyClient = Callable[[], AbstractContextManager[tuple[RedisServer, Any]]]


@pytest.mark.parametrize("ready", [watched_redis, cluster], ids=["Sentinel", "Cluster"])
def test_a_ready_client_carries_changes_and_outlives_its_server(
    apps: Apps, ready: ReadyClient, caplog: pytest.LogCaptureFixture
) -> None:
    with ready() as (server, client):
        hosts = TwoHosts(apps, redis=client)
        hosts.listen(server)
        assert hosts.change(2)
        hosts.wait_until_serving(2)
        server.kill()
        wait_until(lambda: not hosts.is_live(), SOON_SECONDS, "the listener notices")
        assert not hosts.change(3)
        server.start()
        hosts.wait_until_serving(3, 30)
        wait_until(lambda: hosts.change(4) or hosts.change(5), 30, "Redis takes the news")
        hosts.wait_until_serving(hosts.here.settings.SIZE)
        apps.close()
    assert [record for record in caplog.records if record.exc_info] == []
    assert len(messages(caplog.records, "cannot be listened to")) == 1
    assert len(messages(caplog.records, "answers again")) == 1


# -- time ------------------------------------------------------------------------------------------


def test_a_redis_that_stands_still_is_left_alone_for_seconds() -> None:
    """Not just for the moment: else most of the changes of these seconds would wait for one."""
    with RedisServer() as server, server.client() as client:
        bus = bus_of(config_of(UNUSED_URI, server.url))
        assert bus.publish(NEWS)
        before = connections_made(client)
        server.pause()
        assert not bus.publish(NEWS)
        tried_until = time.monotonic() + 3
        wait_until(
            lambda: bus.publish(NEWS) or time.monotonic() > tried_until, 30, "many changes are made"
        )
        server.resume()
        # The pooled connection was given up, and no other one was tried meanwhile.
        assert connections_made(client) == before


def connections_made(client: redis.Redis) -> int:
    """Return how many connections a server has taken so far."""
    found: Any = client.info("stats")
    return int(found["total_connections_received"])


def test_a_flood_is_taken_in_portions() -> None:
    """It must not keep a listener from its other work; nothing of it is lost, or out of order."""
    with RedisServer() as server, server.client() as client:
        bus = bus_of(config_of(UNUSED_URI, server.url))
        said = [Announcement("default", "aa", revision) for revision in range(1500)]
        with bus.subscribe() as subscription:
            pipeline = client.pipeline(transaction=False)
            for news in said:
                pipeline.publish(bus.channel, news.encode())
            pipeline.execute()
            assert subscription.receive(SOON_SECONDS) == said[:1000]
            assert subscription.receive(SOON_SECONDS) == said[1000:]
