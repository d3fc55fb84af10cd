"""The deployments that Flask-WaffleConf 0.3.1 ran in, with no option of uwsgi_waffle in them.

It reached every worker in 0 of 100 updates under prefork, and through its file watcher after
seconds. Here each of the updates is at every worker at the next request, in each of them.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import RedisServer, free_port
from tests.support.soak import times
from tests.support.uwsgi_server import Options
from tests.support.waffle_host import WaffleHost
from tests.support.waiting import NEVER_SECONDS, SOON_SECONDS

DEPLOYMENTS: dict[str, Options] = {
    "prefork": {},
    "prefork-enable-threads": {"enable-threads": True},
    "prefork-gevent": {"gevent": 50},
    "lazy-apps": {"lazy-apps": True, "enable-threads": True},
    "lazy-apps-gevent": {"lazy-apps": True, "gevent": 50, "gevent-early-monkey-patch": True},
}
UPDATES = times(20, 40)


@pytest.mark.parametrize("with_redis", [True, False], ids=["redis", "no-redis"])
@pytest.mark.parametrize("deployment", DEPLOYMENTS)
def test_every_update_reaches_every_worker(
    deployment: str, redis_server: RedisServer, tmp_path: Path, *, with_redis: bool
) -> None:
    """Each update is served by every worker at its next request, and idle ones call back."""
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
        host.wait_until_called_back(UPDATES + 1, SOON_SECONDS)
