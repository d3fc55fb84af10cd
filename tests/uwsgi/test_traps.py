"""Traps of uWSGI that a deployment alone does not spring; docs/uwsgi.md lists where the others are.

Each test ends with the same question: is the next request of each worker right?
"""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support import RedisServer, wait_until
from tests.support.instance import BOOT, ELECTED, LAZY, Instance, assert_serves
from tests.support.uwsgi_server import Options
from tests.support.waiting import SOON_SECONDS
from uwsgi_waffle.host.records import HostSnapshot

FLOOD: Options = {"module": "tests.apps.flood:app"}
THUNDER: Options = {"thunder-lock": True, "threads": 4}


def test_t4_thunder_lock_with_threads_serves_no_stale_value() -> None:
    """Idle workers run no signal handler there, but each request compares: 0 stale of hundreds."""
    with Instance(BOOT, THUNDER, workers=3, separate=False) as instance:
        with ThreadPoolExecutor(16) as pool:
            for _ in range(20):
                value = instance.set_all()
                for answer in pool.map(lambda _: instance.read(), range(16)):
                    assert_serves(answer, value)
        assert instance.count_in_log("thunder-lock with threads.*Remove thunder-lock") == 1


def test_t5_a_long_request_keeps_its_snapshot_and_the_next_one_is_right() -> None:
    """No handler runs in a busy worker: the request sees one revision, the next one the newest."""
    with Instance(BOOT, workers=2) as instance, ThreadPoolExecutor(1) as pool:
        old = instance.set_all(worker=1)
        held = pool.submit(instance.read, 2, "/?hold=1.5")
        wait_until(lambda: busy_workers(instance) == [2], SOON_SECONDS, "worker 2 is busy")
        new = instance.set_all(worker=1)
        assert_serves(instance.read(1), new)
        answer = held.result()
        assert answer["values"] == answer["again"] == dict.fromkeys(answer["values"], old)
        assert_serves(instance.read(2), new)


def test_t5_threads_run_handlers_beside_requests_that_keep_their_snapshot() -> None:
    """Another core of the busy worker takes the change: callbacks run, the request sees nothing."""
    with Instance(BOOT, {"threads": 2}, workers=2) as instance, ThreadPoolExecutor(1) as pool:
        old = instance.set_all(worker=1)
        held = pool.submit(instance.read, 2, "/?hold=1.5")
        wait_until(lambda: busy_workers(instance) == [2], SOON_SECONDS, "worker 2 is busy")
        new = instance.set_all(worker=1)
        instance.wait_until_called_back(new)
        assert not held.done()
        answer = held.result()
        assert answer["values"] == answer["again"] == dict.fromkeys(answer["values"], old)
        assert answer["config"] == dict.fromkeys(answer["values"], new)


def busy_workers(instance: Instance) -> list[int]:
    """Return the numbers of the workers within a request."""
    workers = instance.stats()["workers"]
    return [
        worker["id"] for worker in workers if any(core["in_request"] for core in worker["cores"])
    ]


def test_t6_a_signal_that_uwsgi_drops_costs_nothing_but_time() -> None:
    """A worker's queue is full of other signals: its next request is right in spite of that."""
    with Instance(BOOT, FLOOD, workers=2) as instance, ThreadPoolExecutor(1) as pool:
        held = pool.submit(instance.read, 2, "/?hold=4")
        wait_until(lambda: busy_workers(instance) == [2], SOON_SECONDS, "worker 2 is busy")
        instance.post("/signals", 2000, worker=1)
        instance.wait_for_log("SIGNAL QUEUE IS FULL")
        value = instance.set_all(worker=1)
        held.result()
        assert_serves(instance.read(2), value)
        instance.wait_until_called_back(value)
        instance.assert_right()


def test_t7_workers_that_rest_get_no_signals(redis_server: RedisServer) -> None:
    """400 changes while workers rest fill no queue, and a worker that is woken is right."""
    cheaper: Options = {"cheaper": 1, "cheaper-initial": 1, "cheaper-step": 3}
    with Instance(BOOT, cheaper, workers=4, redis=redis_server, separate=False) as instance:
        assert len(instance.worker_pids()) == 1
        for _ in range(400):
            value = instance.set_all()
        assert instance.count_in_log("SIGNAL QUEUE IS FULL|could not deliver") == 0
        woken: set[int] = set()

        def all_woken() -> bool:
            for answer in pool.map(lambda _: instance.read(path="/?hold=0.1"), range(8)):
                assert_serves(answer, value)
                woken.add(answer["worker"])
            return woken == {1, 2, 3, 4}

        with ThreadPoolExecutor(8) as pool:
            wait_until(all_woken, SOON_SECONDS, "all workers were woken")


def test_t7_cheaper_never_leaves_an_instance_without_a_listener(redis_server: RedisServer) -> None:
    """When the elected worker is put to rest, another one listens."""
    cheaper: Options = {"cheaper": 1, "cheaper-initial": 3, "cheaper-overload": 1}
    with Instance(ELECTED, cheaper, workers=3, redis=redis_server, separate=False) as instance:
        wait_until(lambda: len(instance.worker_pids()) == 1, SOON_SECONDS, "two workers rest")
        instance.wait_for_subscriptions()
        instance.follow_elsewhere(7)


def test_t7_suspended_workers_are_right_when_they_resume(redis_server: RedisServer) -> None:
    """Workers that are suspended miss the signal for good; their next request sees the change."""
    with Instance(BOOT, workers=2, redis=redis_server) as instance:
        instance.wait_for_subscriptions()
        host = HostSnapshot(Path(instance.environment["WAFFLE_SNAPSHOT_PATH"]))
        instance.process.send(signal.SIGTSTP)
        wait_until(lambda: worker_states(instance) == {"pause"}, SOON_SECONDS, "the workers pause")
        with instance.elsewhere() as update:
            value = update(7)
        # The mule applies a revision itself after it has raised the signal.
        wait_until(
            lambda: [slot for slot in host.slots.living() if slot.revision and slot.role == "mule"],
            SOON_SECONDS,
            "the mule has raised the signal",
        )
        assert not instance.journal.pids(value)
        instance.process.send(signal.SIGTSTP)
        wait_until(lambda: worker_states(instance) == {"idle"}, SOON_SECONDS, "the workers resume")
        for answer in instance.read_each():
            assert_serves(answer, value)


def worker_states(instance: Instance) -> set[str]:
    """Return what the master takes its workers to do."""
    return {worker["status"] for worker in instance.stats()["workers"]}


@pytest.mark.parametrize("lazy", [{}, LAZY], ids=["prefork", "lazy"])
def test_t10_nothing_of_ours_runs_in_the_master(lazy: Options, redis_server: RedisServer) -> None:
    """A thread that runs there at a fork can hang the worker; the master keeps the one it had."""
    with Instance(BOOT, FLOOD, lazy, workers=2, redis=redis_server) as instance:
        instance.wait_for_subscriptions()
        assert instance.post("/threads").json() == 1


def test_t8_no_handler_dies_with_its_worker(redis_server: RedisServer) -> None:
    """Lazy workers come and go; the handler is the master's, so no signal meets a dead one."""
    with Instance(BOOT, LAZY, workers=2, redis=redis_server) as instance:
        for _ in range(3):
            before = instance.worker_pids()
            os.kill(before[0], signal.SIGKILL)
            instance.set_all(worker=2)  # its signal may find a worker that has loaded nothing
            instance.wait_for_successor(before[0])
            instance.wait_until_called_back(instance.set_all(worker=2))
        assert instance.count_in_log("egmentation|error managing signal") == 0
