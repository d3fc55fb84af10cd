"""`health` and `metrics` under gunicorn: from the first question on, and whatever is away."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support import RedisServer, wait_until
from tests.support.http import request
from tests.support.other_servers import Gunicorn
from tests.support.waiting import SOON_SECONDS
from uwsgi_waffle.host.records import HostSnapshot

WORKERS = 3


class Probed(Gunicorn):
    """gunicorn with the views for probes; each worker takes one request at a time."""

    def __init__(self, redis: RedisServer, *, preload: bool = False, **environment: str) -> None:
        """Choose when the application is loaded."""
        environment["WAFFLE_REDIS_URL"] = redis.url
        environment["WAFFLE_POLL_SECONDS"] = "0.3"
        super().__init__(environment, worker_class="sync", preload=preload, workers=WORKERS)

    def program(self) -> list[str]:
        """Return the arguments of Python."""
        return [*super().program()[:-1], "tests.apps.probed:app"]

    def answers(self) -> bool:
        """Whether a probe is answered, which is all that comes to a worker before it is ready."""
        return request("GET", "/health", port=self.port).status == 200

    def ask(self, path: str) -> dict[int, dict[str, Any]]:
        """Return what the workers that take some requests answer, by their pids."""
        found: dict[int, dict[str, Any]] = {}

        def one(_: int) -> None:
            answer = request("GET", path, port=self.port).json()
            found[answer["pid"]] = answer

        with ThreadPoolExecutor(2 * WORKERS) as clients:
            list(clients.map(one, range(4 * WORKERS)))
        return found

    @property
    def listening(self) -> set[int]:
        """The processes that listen, by what they say."""
        living = HostSnapshot(Path(self.environment["WAFFLE_SNAPSHOT_PATH"])).slots.living()
        return {process.pid for process in living if process.listener.state != "absent"}

    def wait_until_well(self) -> None:
        """Return when each worker has answered that it is ready and live, and nothing else."""

        def all_are_well() -> bool:
            found = self.ask("/health").values()
            are_well = (one["ready"] and one["live"] and not one["reasons"] for one in found)
            return len(found) == WORKERS and all(are_well)

        wait_until(all_are_well, SOON_SECONDS, "all are well")


@pytest.fixture(params=[False, True], ids=["no-preload", "preload"])
def gunicorn(request: pytest.FixtureRequest, own_redis: RedisServer) -> Iterator[Probed]:
    """Give a gunicorn that no request has come to, but for probes."""
    with Probed(own_redis, preload=request.param) as server:
        yield server


def numbers(text: str) -> dict[tuple[str, ...], float]:
    """Return what Prometheus reads, but for what moves with the time."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if "_age_" not in sample.name
    }


def test_a_probe_sets_each_worker_up_and_all_give_the_same_numbers(gunicorn: Probed) -> None:
    gunicorn.wait_until_well()
    gunicorn.update({"S000": 5})
    gunicorn.wait_until_well()
    wait_until(
        lambda: (
            numbers(gunicorn.ask("/metrics").popitem()[1]["text"])[
                "waffle_host_processes", "current"
            ]
            == WORKERS
        ),
        SOON_SECONDS,
        "each process has the change",
    )
    first, *others = (numbers(one["text"]) for one in gunicorn.ask("/metrics").values())
    assert all(other == first for other in others)
    assert first["waffle_revision",] == 1
    assert first["waffle_redis_heard",] == 1


def test_workers_are_alive_whichever_of_them_is_stopped(gunicorn: Probed) -> None:
    """Another one listens in its place."""
    gunicorn.wait_until_well()
    (stopped,) = gunicorn.listening
    os.kill(stopped, signal.SIGSTOP)
    try:

        def another_listens() -> bool:
            # None is asked: what the stopped worker takes would wait until it goes on.
            path = Path(gunicorn.environment["WAFFLE_SNAPSHOT_PATH"])
            age = HostSnapshot(path).heartbeat_age_seconds()
            return bool(gunicorn.listening - {stopped}) and age is not None and age < 1.0

        wait_until(another_listens, SOON_SECONDS, "another one listens")
    finally:
        os.kill(stopped, signal.SIGCONT)
    gunicorn.wait_until_well()


def test_workers_are_in_service_and_alive_without_redis(
    gunicorn: Probed, own_redis: RedisServer
) -> None:
    gunicorn.wait_until_well()
    own_redis.kill()

    def is_named() -> bool:
        found = gunicorn.ask("/health").values()
        assert all(one["ready"] and one["live"] for one in found)
        return all("only polls SQL" in str(one["reasons"]) for one in found)

    wait_until(is_named, SOON_SECONDS, "each worker names it")
    found = numbers(gunicorn.ask("/metrics").popitem()[1]["text"])
    assert (found["waffle_redis_heard",], found["waffle_listener_running",]) == (0, 1)
