"""Applications on every kind of Redis: changes arrive, and no password is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from typing import Any

import pytest

from tests.bus.conftest import POSITION, bus_at
from tests.conftest import Apps
from tests.support import RedisServer, wait_until
from tests.support.listening import Host, messages
from tests.support.redis_kinds import ClusterServer, valkey, watched_redis
from tests.support.waiting import SOON_SECONDS
from uwsgi_waffle.bus import client as waffle_client
from uwsgi_waffle.bus.client import BusUnavailable

#: As it is written in a URL, with a character that must be quoted there, and as it is.
QUOTED, PASSWORD = "Geheim%407", "Geheim@7"

KINDS: dict[str, dict[str, Any]] = {
    "password": {"password": PASSWORD},
    "unix socket with a password": {"unix_socket": True, "password": PASSWORD},
    "TLS with a password": {"tls": True, "password": PASSWORD},
    "unix socket": {"unix_socket": True},
    "TLS": {"tls": True},
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_form_of_url_carries_changes_and_shows_no_password(
    apps: Apps, kind: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor while the server is away, when much is logged about it."""
    # A handshake of TLS takes its time on a busy machine.
    monkeypatch.setattr(waffle_client, "ANSWER_SECONDS", SOON_SECONDS)
    caplog.set_level("DEBUG")
    with RedisServer(**KINDS[kind]) as server:
        url = server.url.replace(PASSWORD, QUOTED)
        here, there = Host(apps, "here", url, listens=False), Host(apps, "there", url)
        there.listen(server)
        assert here.change(2)
        there.wait_until_serving(2)
        server.kill()
        there.wait_until_listener("polling")
        assert not here.change(3)
        shown = [caplog.text, repr(here.state.config), str(here.waffle.status())]
        shown += [repr(p.listener) for p in there.state.host.slots.living()]
    assert len(messages(caplog.records, "cannot be listened to")) == 1
    assert len(messages(caplog.records, "could not be announced")) == 1
    assert here.state.bus.location in caplog.text
    assert not any(word in text for text in shown for word in (PASSWORD, QUOTED))


def test_valkey_carries_changes_and_reports_and_may_restart(apps: Apps) -> None:
    with valkey() as server:
        with server.client() as client:
            assert "valkey_version" in client.info("server")
        here, there = Host(apps, "here", server), Host(apps, "there", server)
        for host in (here, there):
            host.listen()
        server.wait_for_subscribers(2)
        assert here.change(2)
        there.wait_until_serving(2)
        assert here.waffle.wait(1, timeout=SOON_SECONDS).total == 2
        server.kill()
        there.wait_until_listener("polling")
        assert not here.change(3)
        server.start()
        there.wait_until_serving(3)
        assert here.waffle.wait(2, timeout=SOON_SECONDS).total == 2
        apps.close()


@pytest.mark.parametrize("wrong", ["an unknown authority", "no TLS"])
def test_a_server_that_cannot_be_trusted_is_one_that_is_away(
    wrong: str, caplog: pytest.LogCaptureFixture
) -> None:
    with RedisServer(tls=True, password="Geheim-7") as server:  # noqa: S106  made up
        url = server.url.partition("?")[0]
        bus = bus_at(url.replace("rediss:", "redis:") if wrong == "no TLS" else url)
        assert not bus.publish(POSITION)
        with pytest.raises(BusUnavailable) as caught, bus.subscribe():
            pass
    assert len(messages(caplog.records, "could not be announced")) == 1
    assert "Geheim-7" not in f"{caplog.text} {caught.value}"


@contextmanager
def cluster_of_one() -> Iterator[tuple[RedisServer, Any]]:
    """Run a Cluster of one node; give both the node and a client of the Cluster."""
    with ClusterServer() as server, closing(server.cluster_client()) as client:
        yield server, client


ReadyClient = Callable[[], AbstractContextManager[tuple[RedisServer, Any]]]


@pytest.mark.parametrize("ready", [watched_redis, cluster_of_one], ids=["Sentinel", "Cluster"])
def test_a_ready_client_carries_changes_and_outlives_its_server(
    apps: Apps, ready: ReadyClient, caplog: pytest.LogCaptureFixture
) -> None:
    with ready() as (server, client):
        here = Host(apps, "here", given=client, listens=False)
        there = Host(apps, "there", given=client)
        there.listen(server)
        assert here.change(2)
        there.wait_until_serving(2)
        assert here.waffle.wait(1, timeout=SOON_SECONDS).total == 1
        server.kill()
        there.wait_until_listener("polling")
        assert not here.change(3)
        server.start()
        there.wait_until_serving(3)
        wait_until(lambda: here.change(4) or here.change(5), SOON_SECONDS, "it is announced again")
        there.wait_until_serving(here.waffle.settings.SIZE)
        apps.close()
    assert [record for record in caplog.records if record.exc_info] == []
    assert len(messages(caplog.records, "cannot be listened to")) == 1
    assert len(messages(caplog.records, "answers again")) == 1
