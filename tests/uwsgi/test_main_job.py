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
from tests.support.instance import BOOT, LAZY, NAMES, Instance
from tests.support.soak import times
from tests.support.uwsgi_server import Options

UPDATES = times(30, 1000)

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


@pytest.mark.parametrize("with_redis", [True, False], ids=["redis", "no-redis"])
@pytest.mark.parametrize("mode", MODES)
def test_each_worker_serves_an_update_as_soon_as_it_has_returned(
    mode: str, *, with_redis: bool, redis_server: RedisServer
) -> None:
    """After each update through a random worker a read on every worker: 0 stale, 0 mixed."""
    redis = redis_server if with_redis else None
    with Instance(BOOT, MODES[mode], redis=redis) as instance:
        figures = {"idle": count_reads(instance)}
        with load(instance.port):
            figures["load"] = count_reads(instance)
    print(mode, UPDATES, "updates:", figures)  # noqa: T201  the figures are the point
    for counted in figures.values():
        assert counted == {"reads": 4 * UPDATES, "stale": 0, "mixed": 0}


def test_a_change_wakes_each_worker_once(redis_server: RedisServer) -> None:
    """By its writer, or by the listener where the writer is no process of the instance."""
    changes = 10
    with Instance(BOOT, redis=redis_server) as instance, instance.operator() as operator:
        before = wakes_of_each(instance)
        for value in range(1, changes + 1):
            instance.set_all(value)
            instance.wait_until_serving(value)
        operator.update(dict.fromkeys(NAMES, 1000))  # after it no wake of an earlier one is queued
        instance.wait_until_called_back(1000)
        wakes = wakes_of_each(instance)
    # One more where the listener looked just between a writer's record and its signal.
    most = changes + 2
    for number, count in wakes.items():
        assert changes < count - before[number] <= most, wakes


def wakes_of_each(instance: Instance) -> dict[int, int]:
    """Return how many signals each worker has handled."""
    return {worker["id"]: worker["signals"] for worker in instance.stats()["workers"]}


def count_reads(instance: Instance) -> Counter[str]:
    """Make updates, and return what reads on every worker found after each of them."""
    found: Counter[str] = Counter(stale=0, mixed=0)
    for _ in range(UPDATES):
        value = instance.set_all()
        for answer in instance.read_each():
            served = [answer[how][name] for how in ("values", "config") for name in NAMES]
            found["reads"] += 1
            found["stale"] += min(served) < value
            found["mixed"] += len({*served, *answer["again"].values()}) > 1
    return found
