"""The deployments that Flask-WaffleConf 0.3.1 was run in, without a line of ours in their options.

It reached every worker in 0 of 100 updates under prefork, and through its file watcher after
seconds. Here each of the updates is at every worker at the next request, in each of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import RedisServer, free_port
from tests.support.uwsgi_server import Options
from tests.support.waffle_host import WaffleHost

DEPLOYMENTS: dict[str, Options] = {
    "prefork": {},
    "prefork-enable-threads": {"enable-threads": True},
    "prefork-gevent": {"gevent": 50},
    "lazy-apps": {"lazy-apps": True, "enable-threads": True},
    "lazy-apps-gevent": {"lazy-apps": True, "gevent": 50, "gevent-early-monkey-patch": True},
}
UPDATES = 40
NEVER_SECONDS = 3600
SOON_SECONDS = 10.0


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    """Give a Redis for this module."""
    with RedisServer() as server:
        yield server


@pytest.mark.parametrize("with_redis", [True, False], ids=["redis", "no-redis"])
@pytest.mark.parametrize("deployment", DEPLOYMENTS)
def test_every_update_reaches_every_worker(
    deployment: str, redis_server: RedisServer, tmp_path: Path, *, with_redis: bool
) -> None:
    """Each update is served by every worker at its next request, and told to every idle one."""
    environment = {
        "WAFFLE_DATABASE_URI": f"sqlite:///{tmp_path}/waffle.db",
        "WAFFLE_REDIS_PORT": str(redis_server.port if with_redis else free_port()),
        "WAFFLE_REDIS_CHANNEL": deployment,
        "WAFFLE_POLL_SECONDS": str(NEVER_SECONDS),
    }
    host = WaffleHost(environment, options=DEPLOYMENTS[deployment])
    with host.server:
        for value in range(1, UPDATES + 1):
            done = host.update({"S000": value, "S019": value}, worker=value % host.workers)
            assert done["announced"] is with_redis
            for answer in host.read_all():
                assert answer["revision"] == done["revision"]
                assert (answer["values"]["S000"], answer["values"]["S019"]) == (value, value)
                assert answer["config"] == answer["values"]
        host.update({"S000": UPDATES + 1})
        host.wait_until_told(UPDATES + 1, SOON_SECONDS)
