"""Every host is registered in SQL, so `wait` misses those of which Redis holds no report."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from tests.conftest import Apps
from tests.ops.conftest import Site, proved, refusal_of
from tests.support import RedisServer, wait_until
from tests.support.waiting import SOON_SECONDS
from uwsgi_waffle import NotConverged
from uwsgi_waffle.listen import reporter
from uwsgi_waffle.sql.declared import HOST
from uwsgi_waffle.sql.hosts import FORGET_SECONDS

CONFS = {"SIZE": {"default": 1}}


@pytest.fixture
def replica(own_redis: RedisServer) -> RedisServer:
    """Give a read-only replica of the other Redis, which takes subscriptions but no reports."""
    return RedisServer(
        extra_options=[
            "--replicaof",
            f"127.0.0.1 {own_redis.port}",
            "--masterauth",
            str(own_redis.password),
        ]
    )


def test_a_host_on_a_read_only_replica_is_named(
    apps: Apps, own_redis: RedisServer, replica: RedisServer
) -> None:
    config = {"WAFFLE_CONFS": CONFS, "WAFFLE_MULTIPROC": True, "WAFFLE_LISTENER": "thread"}
    with replica:
        here, waffle = apps(host="here", **config, WAFFLE_REDIS_URL=own_redis.url)
        there, _ = apps(host="there", **config, WAFFLE_REDIS_URL=replica.url)
        for app in (here, there):
            app.extensions["waffleconf"].adopt_process()

        def is_named() -> bool:
            revision = waffle.revision
            try:
                waffle.wait(revision, 0.2)
            except NotConverged as error:
                return any("cannot report to Redis" in one.reason for one in error.missing)
            return False

        wait_until(is_named, SOON_SECONDS, "the host that cannot report is named")
        assert any("cannot report" in host.fault for host in waffle.status().hosts)


def test_a_host_whose_report_redis_has_lost_is_named(
    site: Site, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.here.change(2)
    assert proved(site.here).applied == 2
    with redis_server.client() as client:
        monkeypatch.setattr(site.there.state.reports, "put", lambda _host, **_: None)
        client.flushall()
        error = refusal_of(site.here, "Redis holds no report of it")
        there = f"{site.there.state.host_name}#{site.there.state.host.host_id[:6]}"
        assert [laggard.host for laggard in error.missing] == [there]
    assert any("Redis holds no report of it" in h.fault for h in site.here.waffle.status().hosts)


def test_a_host_that_ends_is_registered_no_more(site: Site) -> None:
    registry = site.here.state.registry
    wait_until(lambda: len(registry.read()) == 2, SOON_SECONDS, "both are registered")
    site.there.state.retire()
    assert [h.id for h in registry.read()] == [site.here.state.host.host_id]
    assert proved(site.here).total == 1


def test_a_host_that_was_removed_registers_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, host_id = site.here.state.registry, site.there.state.host.host_id
    monkeypatch.setattr(reporter, "REGISTER_SECONDS", 0.1)
    registry.forget(host_id)
    wait_until(lambda: host_id in {h.id for h in registry.read()}, SOON_SECONDS, "it is back")


def test_a_host_not_seen_for_long_is_not_waited_for(site: Site) -> None:
    """Such as one whose machine is gone: it needs no `forget` once the time is over."""
    registry = site.here.state.registry
    registry.register("f" * 16, "gone")
    refusal_of(site.here, "Redis holds no report of it")
    with site.here.state.store.database.engine.begin() as connection:
        late = sa.update(HOST).where(HOST.c.id == "f" * 16)
        connection.execute(late.values(seen_at=HOST.c.seen_at - FORGET_SECONDS - 1))
    assert proved(site.here).applied == 2


def test_a_note_of_an_earlier_release_never_expires(site: Site) -> None:
    """Which writes no time."""
    with site.here.state.store.database.engine.begin() as connection:
        row = {"namespace": "default", "id": "f" * 16, "name": "old", "reason": "OOM"}
        connection.execute(sa.insert(HOST).values(**row))
    refusal_of(site.here, "it cannot report to Redis (OOM)")
