"""The main job on one host: what one worker changes, every worker serves at once.

The figures are printed, and shown by ``pytest -rP``.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.support import RedisServer, require_program
from tests.support.soak import times
from tests.support.uwsgi_server import Options
from tests.uwsgi.instance import BOOT, LAZY, NAMES, Instance

UPDATES = times(60, 1000)

MODES: dict[str, Options] = {"prefork": {}, "lazy-apps": LAZY}


@contextlib.contextmanager
def load(port: int) -> Iterator[None]:
    """Send requests from eight connections at once."""
    wrk = require_program("wrk")
    command = [wrk, "-t1", "-c8", "-d3600s", f"http://127.0.0.1:{port}/"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.kill()


@pytest.mark.parametrize("under_load", [False, True], ids=["idle", "load"])
@pytest.mark.parametrize("with_redis", [True, False], ids=["redis", "no-redis"])
@pytest.mark.parametrize("mode", MODES)
def test_each_worker_serves_an_update_as_soon_as_it_has_returned(
    mode: str, *, under_load: bool, with_redis: bool, redis_server: RedisServer
) -> None:
    """After each update through a random worker a read on every worker: 0 stale, 0 mixed."""
    redis = redis_server if with_redis else None
    figures: Counter[str] = Counter(stale=0, mixed=0)
    with Instance(BOOT, MODES[mode], redis=redis) as instance, contextlib.ExitStack() as stack:
        if under_load:
            stack.enter_context(load(instance.port))
        for _ in range(UPDATES):
            value = instance.update()
            for answer in instance.read_each():
                served = [answer[how][name] for how in ("values", "config") for name in NAMES]
                figures["reads"] += 1
                figures["stale"] += min(served) < value
                figures["mixed"] += len({*served, *answer["again"].values()}) > 1
    print(mode, UPDATES, "updates:", dict(figures))  # noqa: T201  the figures are the point
    assert figures == {"reads": 4 * UPDATES, "stale": 0, "mixed": 0}
