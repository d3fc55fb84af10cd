"""A host that Redis does not let report is named through SQL, and never counted as proved."""

from __future__ import annotations

import pytest

from tests.conftest import Apps
from tests.support import RedisServer, wait_until
from tests.support.waiting import SOON_SECONDS
from uwsgi_waffle import NotConverged

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
