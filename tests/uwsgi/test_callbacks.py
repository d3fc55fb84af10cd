"""A callback that raises, or never returns, stops no worker, listener, successor or reload."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.apps.misbehaviour import HANG_IN_CALLBACK, INTERRUPT, LEAVE
from tests.support import RedisServer, wait_until
from tests.support.instance import BOOT, ELECTED, LAZY, Instance, assert_serves
from tests.support.uwsgi_server import Options
from tests.support.waiting import SOON_SECONDS
from uwsgi_waffle.host.records import HostSnapshot

#: The first value that the workers serve, which the master has not loaded.
FIRST = 1
#: Any more, and a callback has been waited for more than once by some process.
PROMPT_SECONDS = 10.0
#: In seconds: sooner than any callback here returns.
HARAKIRI: Options = {"harakiri": 2}

DEPLOYMENTS: dict[str, tuple[Options, ...]] = {
    "prefork": (BOOT,),
    "elected-lazy": (ELECTED, LAZY),
    "elected-gevent": (ELECTED, {"gevent": 20, "gevent-monkey-patch": True}),
}


@pytest.fixture(scope="module", params=DEPLOYMENTS)
def instance(request: pytest.FixtureRequest, shared_redis: RedisServer) -> Iterator[Instance]:
    """Give an instance in each of whose workers a callback runs, and never returns."""
    options = DEPLOYMENTS[request.param]
    with Instance(*options, HARAKIRI, workers=2, redis=shared_redis) as running:
        running.wait_for_subscriptions()
        before = running.worker_pids()
        running.follow_elsewhere(FIRST, LEAVE, INTERRUPT, HANG_IN_CALLBACK)
        assert running.count_in_log("on_change.'S001'. failed at revision") == 4
        assert running.worker_pids() == before
        yield running


def assert_whole(instance: Instance, pids: list[int]) -> None:
    """Fail unless the workers serve what changes here and elsewhere, at once and though idle."""
    began = time.monotonic()
    value = instance.assert_right(5)
    host = HostSnapshot(Path(instance.environment["WAFFLE_SNAPSHOT_PATH"]))

    def idle_workers_serve(revision: int) -> bool:
        listed = [process for process in host.slots.living() if process.role == "worker"]
        return [process.revision for process in listed] == [revision] * instance.workers

    with instance.elsewhere() as update:
        for number in range(1, 4):
            revision = host.position.revision + 1
            update(value + number)
            wait_until(lambda r=revision: idle_workers_serve(r), SOON_SECONDS, "idle workers serve")  # type: ignore[misc]
        update(HANG_IN_CALLBACK)
    wait_until(lambda: idle_workers_serve(revision + 1), SOON_SECONDS, "idle workers serve")
    assert time.monotonic() - began < PROMPT_SECONDS
    assert instance.worker_pids() == pids
    assert instance.count_in_log("HARAKIRI") == 0


def test_the_workers_serve_and_follow_and_no_harakiri_ends_them(instance: Instance) -> None:
    assert_whole(instance, instance.worker_pids())


def test_the_list_of_processes_shows_the_callback(instance: Instance) -> None:
    calling = instance.read(1, "/state")["calling"]
    shown = {pid for pid, what in calling.items() if what == "on_change('S001')"}
    assert shown == {str(pid) for pid in instance.worker_pids()}


def test_a_successor_is_called_with_what_its_memory_was_made_with(instance: Instance) -> None:
    """That is what the master has loaded; a process that loads by itself has nothing to learn."""
    killed = instance.worker_pids()[0]
    os.kill(killed, signal.SIGKILL)
    instance.wait_for_successor(killed)
    successor = instance.worker_pids()[0]
    assert_serves(instance.read(1), HANG_IN_CALLBACK)
    steps = [(one.old, one.new) for one in instance.journal.entries() if one.pid == successor]
    is_lazy = instance.read(1, "/state")["loaded_in"] == successor
    assert steps == ([] if is_lazy else [(0, HANG_IN_CALLBACK)])
    assert_whole(instance, instance.worker_pids())


def test_a_reload_does_not_wait_for_the_callback(instance: Instance) -> None:
    began = time.monotonic()
    instance.reload()
    assert time.monotonic() - began < PROMPT_SECONDS
    assert_whole(instance, instance.worker_pids())
