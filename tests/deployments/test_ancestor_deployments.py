"""The deployments that Flask-WaffleConf 0.3.1 ran in, with no option of uwsgi_waffle in them.

It reached every worker in 0 of 100 updates under prefork, and through its file watcher after
seconds. Here each of the updates is at every worker at the next request, in each of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import pytest

from tests.support import RedisServer, wait_until
from tests.support.instance import Instance
from tests.support.soak import times
from tests.support.uwsgi_server import Options
from tests.support.waiting import SOON_SECONDS

DEPLOYMENTS: dict[str, Options] = {
    "prefork": {},
    "prefork-enable-threads": {"enable-threads": True},
    "prefork-gevent": {"gevent": 50},
    "lazy-apps": {"lazy-apps": True, "enable-threads": True},
    "lazy-apps-gevent": {"lazy-apps": True, "gevent": 50, "gevent-early-monkey-patch": True},
}
UPDATES = times(20, 40)


@pytest.mark.parametrize("deployment", DEPLOYMENTS)
def test_every_update_reaches_every_worker(deployment: str, tmp_path: Path) -> None:
    """Each update is served by every worker at its next request, and idle ones call back."""
    redis = RedisServer()
    environment = {
        "WAFFLE_DATABASE_URI": f"sqlite:///{tmp_path}/waffle.db",
        "WAFFLE_REDIS_PORT": str(redis.port),
        "WAFFLE_REDIS_CHANNEL": deployment,
    }
    with Instance(DEPLOYMENTS[deployment], environment=environment) as host:
        update_many(host, range(1, UPDATES + 1), announced=False)
        with redis:
            redis.wait_for_subscribers(1, deployment)
            for worker in range(1, host.workers + 1):  # each has left Redis alone for a while
                wait_until(partial(announces, host, worker), SOON_SECONDS, "it announces")
            update_many(host, range(UPDATES + 1, 2 * UPDATES + 1), announced=True)


def announces(host: Instance, worker: int) -> bool:
    """Change a setting through a worker, and return whether that was announced."""
    value = host.read(worker)["revision"] + 1
    return bool(host.update({"S001": value}, worker=worker)["announced"])


def update_many(host: Instance, values: Iterable[int], *, announced: bool) -> None:
    """Make updates through one worker after the other, and read each of them at every worker."""
    for value in values:
        done = host.update({"S000": value, "S019": value}, worker=1 + value % host.workers)
        assert done["announced"] is announced
        for answer in host.read_each():
            assert answer["revision"] == done["revision"]
            assert (answer["values"]["S000"], answer["values"]["S019"]) == (value, value)
            assert answer["config"] == answer["values"]
    host.wait_until_called_back(value)
