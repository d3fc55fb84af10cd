"""`health` and `metrics` through the workers: what a probe and Prometheus are told."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support import PostgresqlServer, RedisServer, wait_until
from tests.support.databases import standstill
from tests.support.instance import BOOT, ELECTED, LAZY, Instance
from tests.support.uwsgi_server import Options
from tests.support.waiting import SOON_SECONDS
from uwsgi_waffle.host.records import HostSnapshot

WORKERS = 3
PROBED: Options = {"module": "tests.apps.probed:app"}
#: A mule listens, or a worker in a thread or a greenlet, or a thread wakes those of the others.
DEPLOYMENTS: dict[str, Options] = {
    "mule": BOOT,
    "elected": ELECTED,
    "gevent": {**ELECTED, "gevent": 20, "gevent-monkey-patch": True},
    "lazy": LAZY,
}

Answers = list[dict[str, Any]]


def start(option: Options, redis: RedisServer, **environment: str) -> Instance:
    """Return an instance that polls often."""
    environment["WAFFLE_POLL_SECONDS"] = "0.3"
    return Instance(option, PROBED, workers=WORKERS, redis=redis, environment=environment)


def listening(instance: Instance) -> set[int]:
    """Return the processes that listen, by what they say."""
    living = HostSnapshot(Path(instance.environment["WAFFLE_SNAPSHOT_PATH"])).slots.living()
    return {process.pid for process in living if process.listener.state != "absent"}


def ask_each(instance: Instance) -> Answers:
    """Return the health of each worker."""
    return [instance.read(worker, "/health") for worker in range(1, WORKERS + 1)]


def becomes(instance: Instance, wanted: Callable[[dict[str, Any]], bool], what: str) -> Answers:
    """Return what all workers answer once it is as wanted."""
    found: Answers = []

    def look() -> bool:
        found[:] = ask_each(instance)
        return all(map(wanted, found))

    wait_until(look, SOON_SECONDS, f"each worker says: {what}")
    return found


def is_well(health: dict[str, Any]) -> bool:
    return bool(health["ready"] and health["live"] and not health["reasons"])


def metrics(instance: Instance, worker: int = 1) -> dict[str, float]:
    """Return the numbers that a worker gives, with their labels but for those of `waffle_info`."""
    text = instance.read(worker, "/metrics")["text"]
    return {
        " ".join((sample.name, *sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if family.name != "waffle_info"
    }


def numbers_of_each(instance: Instance) -> list[dict[str, float]]:
    """Return the numbers that each worker gives, but for those that move with the time."""
    return [
        {name: value for name, value in metrics(instance, worker).items() if "_age_" not in name}
        for worker in range(1, WORKERS + 1)
    ]


@contextlib.contextmanager
def busy(instance: Instance) -> Iterator[None]:
    """Keep every worker busy with requests and changes."""
    ends = threading.Event()

    def work(worker: int) -> None:
        while not ends.is_set():
            instance.update({"S002": worker * 10**6 + len(threads)}, worker)
            instance.read(worker, "/?hold=0.02")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, WORKERS + 1)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ends.set()
        for thread in threads:
            thread.join(SOON_SECONDS)


@pytest.mark.parametrize("option", DEPLOYMENTS.values(), ids=DEPLOYMENTS)
def test_busy_workers_are_well_and_give_the_same_numbers(
    option: Options, redis_server: RedisServer
) -> None:
    with start(option, redis_server) as instance:
        becomes(instance, is_well, "all is well")
        with busy(instance):
            for _ in range(10):
                for found in ask_each(instance):
                    assert (found["ready"], found["live"]) == (True, True)
                assert 0 <= metrics(instance)["waffle_listener_heartbeat_age_seconds"] < 2
        first, *others = numbers_of_each(instance)
        assert others == [first] * (WORKERS - 1)
        assert first["waffle_revision"] == instance.read()["revision"]
        assert first["waffle_host_processes current"] == WORKERS + ("mule" in option)
        assert first["waffle_redis_heard"] == first["waffle_sql_answers"] == 1


def test_a_mule_that_is_stopped_is_not_alive_until_it_goes_on(redis_server: RedisServer) -> None:
    """Every worker says so, and serves each change all the same."""
    with start(BOOT, redis_server, TEST_STANDSTILL="2") as instance:
        becomes(instance, is_well, "all is well")
        (mule,) = instance.mule_pids()
        os.kill(mule, signal.SIGSTOP)
        try:
            found = becomes(instance, lambda health: not health["live"], "it is not alive")
            for health in found:
                assert health["ready"]
                assert "listener of this host has not turned for" in health["reasons"][0]
            assert metrics(instance)["waffle_listener_running"] == 0
            assert metrics(instance)["waffle_host_processes behind"] == 0
            value = instance.set_all()
            assert instance.values() == {value}
            assert metrics(instance)["waffle_host_processes behind"] == 1
        finally:
            os.kill(mule, signal.SIGCONT)
        becomes(instance, is_well, "all is well again")
        assert metrics(instance)["waffle_listener_running"] == 1


def test_an_elected_worker_that_is_stopped_is_replaced(redis_server: RedisServer) -> None:
    """So all of the others are alive all the time: another one of them listens."""
    with start(ELECTED, redis_server) as instance:
        found = becomes(instance, is_well, "all is well")
        (stopped,) = listening(instance)
        others = [health["worker"] for health in found if health["pid"] != stopped]
        os.kill(stopped, signal.SIGSTOP)
        try:

            def another_listens() -> bool:
                for health in [instance.read(worker, "/health") for worker in others]:
                    assert (health["ready"], health["live"]) == (True, True)
                return bool(listening(instance) - {stopped})

            wait_until(another_listens, SOON_SECONDS, "another worker listens")
            assert metrics(instance, others[0])["waffle_listener_running"] == 1
        finally:
            os.kill(stopped, signal.SIGCONT)
        becomes(instance, is_well, "all is well again")


def test_workers_stay_in_service_without_sql(redis_server: RedisServer) -> None:
    """They serve the last known settings, and say why; the mule finds it out for all."""
    with start(BOOT, redis_server) as instance:
        instance.set_all()
        becomes(instance, is_well, "all is well")
        path = instance.directory / "waffle.db"
        kept = path.rename(instance.directory / "kept.db")
        path.mkdir()
        # A connection that is open has the file that was moved, so the mule starts anew.
        os.kill(instance.mule_pids()[0], signal.SIGKILL)
        found = becomes(instance, lambda health: bool(health["reasons"]), "SQL is away")
        for health in found:
            assert (health["ready"], health["live"]) == (True, True)
        becomes(
            instance,
            lambda health: "waffle.db has not answered this host for" in str(health),
            "SQL does not answer",
        )
        assert metrics(instance)["waffle_sql_answers"] == 0
        path.rmdir()
        kept.rename(path)
        becomes(instance, is_well, "all is well again")
        assert metrics(instance)["waffle_sql_answers"] == 1


def test_workers_and_a_mule_that_wait_for_sql_are_alive(redis_server: RedisServer) -> None:
    """A database that neither answers nor refuses keeps the mule from turning; it is not to blame.

    Nor when it goes on before the mule has its answer.
    """
    with (
        PostgresqlServer() as postgresql,
        start(
            BOOT, redis_server, TEST_STANDSTILL="3", WAFFLE_DATABASE_URI=postgresql.url
        ) as instance,
    ):
        instance.set_all()
        becomes(instance, is_well, "all is well")
        asked: Answers = []

        def ask() -> Answers:
            found = ask_each(instance)
            asked.extend(found)
            return found

        with standstill(postgresql.url):
            wait_until(
                lambda: (
                    all("has not answered this host for" in str(found) for found in ask())
                    and metrics(instance)["waffle_listener_heartbeat_age_seconds"] > 4
                ),
                SOON_SECONDS,
                "the mule waits for SQL, and each worker says so",
            )
        wait_until(lambda: all(map(is_well, ask())), SOON_SECONDS, "all is well again")
        assert [found for found in asked if not (found["ready"] and found["live"])] == []
