"""Reloads, respawns and deaths: every process that is left or new is right, and one listens."""

from __future__ import annotations

import functools
import os
import random
import re
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from tests.support import RedisServer, wait_until
from tests.support.instance import BOOT, ELECTED, LAZY, Instance, assert_serves
from tests.support.processes import STOP_SECONDS, is_alive
from tests.support.soak import times
from tests.support.uwsgi_server import Options
from tests.support.waiting import SOON_SECONDS

MODES: dict[str, tuple[Options, ...]] = {
    "mule": (BOOT,),
    "mule-lazy": (BOOT, LAZY),
    "elected": (ELECTED,),
    "elected-lazy": (ELECTED, LAZY),
}
GEVENT: dict[str, tuple[Options, ...]] = {
    "mule-gevent-early": (BOOT, {"gevent": 20, "gevent-early-monkey-patch": True}),
    "mule-gevent-late": (BOOT, {"gevent": 20, "gevent-monkey-patch": True}),
}


ENDS_BY_SIGTERM: Options = {"die-on-term": True}


@pytest.fixture(scope="module")
def redis_of_instances() -> Iterator[RedisServer]:
    """Give the Redis of the shared instances, which a test may pause."""
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="module", params=MODES)
def instance(request: pytest.FixtureRequest, redis_of_instances: RedisServer) -> Iterator[Instance]:
    """Give an instance that the tests of one mode share, each leaving it whole."""
    options = (*MODES[request.param], ENDS_BY_SIGTERM)
    with Instance(*options, workers=3, redis=redis_of_instances) as running:
        # The mule of an instance that has just started may still load the application.
        running.wait_for_subscriptions()
        yield running


def assert_whole(instance: Instance) -> None:
    """Fail unless the instance does its job: busy or idle, changed here or elsewhere."""
    instance.wait_until_called_back(instance.assert_right())
    instance.wait_for_subscriptions()
    there = unique_value()
    instance.follow_elsewhere(there)
    for answer in instance.read_each():
        assert_serves(answer, there)


def unique_value() -> int:
    """Return a value that no other change of the instance has."""
    return random.randint(10_000, 10**9)  # noqa: S311  guards nothing


def reload_workers(instance: Instance, how: Callable[[], None]) -> None:
    """Reload the workers in some way, while no other process gets a request."""
    before = instance.worker_pids()
    how()
    instance.wait_until_replaced(before)


def test_sighup_keeps_the_values_and_every_process_follows_again(instance: Instance) -> None:
    """The master starts anew under its old pid: signal, hook and mule are set up again."""
    value = instance.set_all()
    instance.reload()
    assert instance.values() == {value}
    assert_whole(instance)


def test_chain_reload_keeps_the_values_and_every_process_follows(instance: Instance) -> None:
    """Workers are replaced one by one; master and mule, with the signal, stay."""
    value = instance.set_all()
    mules = instance.mule_pids()
    reload_workers(instance, lambda: instance.fifo("c"))
    assert instance.mule_pids() == mules
    assert instance.values() == {value}
    assert_whole(instance)


def test_a_killed_worker_has_a_successor_that_is_right(instance: Instance) -> None:
    """Kill -9, an update while it is gone, and the successor has it with its first request."""
    before = instance.worker_pids()
    os.kill(before[1], signal.SIGKILL)
    value = instance.set_all(worker=1)
    instance.wait_for_successor(before[1])
    assert_serves(instance.read(2), value)
    assert_whole(instance)


def test_a_killed_listener_has_a_successor(instance: Instance) -> None:
    """Kill -9 of mule or elected worker: another one listens, and misses no change.

    The change on another host is announced while no process here listens. The workers that live
    call back; the successor of a worker may load after the change, and then has it already.
    """
    listener = listener_pid(instance)
    survivors = [pid for pid in instance.worker_pids() if pid != listener]
    os.kill(listener, signal.SIGKILL)
    wait_until(functools.partial(is_dead, listener), SOON_SECONDS, "the listener is dead")
    value = unique_value()
    with instance.elsewhere() as update:
        instance.wait_until_called_back(update(value), lambda: survivors)
    assert listener_pid(instance) != listener
    instance.wait_for_successor(listener)
    for answer in instance.read_each():
        assert_serves(answer, value)
    assert_whole(instance)


def test_a_worker_in_waiting_takes_over_before_a_successor_can(redis_server: RedisServer) -> None:
    """The elected worker dies, and what follows it takes long to load: another one listens."""
    instance = Instance(
        ELECTED, LAZY, {"module": "tests.apps.fragile:app"}, workers=2, redis=redis_server
    )
    slow = instance.directory / "slow"
    instance.environment["TEST_SLOW"] = str(slow)
    with instance:
        elected = listener_pid(instance)
        others = set(instance.worker_pids()) - {elected}
        slow.touch()
        os.kill(elected, signal.SIGKILL)
        wait_until(functools.partial(is_dead, elected), SOON_SECONDS, "the listener is dead")
        assert listener_pid(instance) in others
        instance.kill()  # in an orderly stop uWSGI waits for the slow one


def is_dead(pid: int) -> bool:
    """Whether a process has ended."""
    return not is_alive(pid)


def listener_pid(instance: Instance) -> int:
    """Return the pid of the one process of the instance that listens to Redis."""

    def one_listener() -> list[int]:
        assert instance.redis is not None
        with instance.redis.client() as client:
            clients = client.client_list(_type="pubsub")
        ports = {int(entry["addr"].rpartition(":")[2]) for entry in clients}
        owners = [pid for pid in instance.pids() if ports & local_ports(pid)]
        return owners if len(owners) == 1 else []

    return wait_until(one_listener, SOON_SECONDS, "one listener")[0]


def local_ports(pid: int) -> set[int]:
    """Return the ports of this side of a process's TCP connections."""
    links = set()
    for entry in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208  quicker, and read-only
        try:
            links.add(os.readlink(f"/proc/{pid}/fd/{entry}"))  # noqa: PTH115  as above
        except FileNotFoundError:
            continue
    with open(f"/proc/{pid}/net/tcp") as file:  # noqa: PTH123  as above
        rows = [line.split() for line in file.readlines()[1:]]
    return {int(row[1].rpartition(":")[2], 16) for row in rows if f"socket:[{row[9]}]" in links}


def test_the_log_holds_no_failure_but_the_kills(instance: Instance) -> None:
    """Stays last: no traceback, no crash of a successor's signal handler, whatever was replaced."""
    assert instance.count_in_log("Traceback|segfault|Segmentation|SIGNAL QUEUE IS FULL") == 0


def test_max_requests_respawns_are_right(redis_server: RedisServer) -> None:
    """Each worker is replaced again and again while settings change: 0 stale."""
    often: Options = {"max-requests": 10, "min-worker-lifetime": 0}
    with Instance(BOOT, often, workers=2, redis=redis_server) as instance:
        pids = set()
        rounds = times(13, 25)
        for _ in range(rounds):
            value = instance.set_all()
            for answer in instance.read_each():
                pids.add(answer["pid"])
                assert_serves(answer, value)
        assert len(pids) > rounds // 6
        assert_whole(instance)


def test_touch_workers_reload_is_right(redis_server: RedisServer) -> None:
    """Workers are new, master and mule are not; lazy workers load the application again."""
    options: Options = {"touch-workers-reload": "%dtouched"}
    instance = Instance(BOOT, LAZY, options, workers=2, redis=redis_server)
    touched = instance.directory / "touched"
    touched.touch()
    with instance:
        value = instance.set_all()
        reload_workers(instance, lambda: os.utime(touched, (time.time() + 5, time.time() + 5)))
        assert instance.values() == {value}
        assert_whole(instance)


def test_a_mule_killed_again_and_again_at_random_loses_nothing(redis_server: RedisServer) -> None:
    """Changes of another host, one after the other, while the mule dies: idle workers get them."""
    kills = times(4, 20)
    with (
        Instance(BOOT, workers=2, redis=redis_server) as instance,
        instance.elsewhere() as update,
    ):
        value = 0
        for _ in range(kills):
            mule = wait_until(instance.mule_pids, SOON_SECONDS, "a mule")[0]
            for _ in range(random.randint(0, 3)):  # noqa: S311  spreads the kills
                value = update(value + 1)
                time.sleep(random.uniform(0, 0.02))  # noqa: S311  the kill comes at any moment
            os.kill(mule, signal.SIGKILL)
            value = update(value + 1)
            wait_until(functools.partial(is_dead, mule), SOON_SECONDS, "the mule is dead")
        instance.wait_until_called_back(value)
        assert instance.count_in_log("spawned uWSGI mule") >= kills
        assert_whole(instance)


def test_a_listener_that_waits_for_redis_does_not_hold_up_a_reload(
    instance: Instance, redis_of_instances: RedisServer
) -> None:
    """With Redis frozen (half-open connections) a reload takes at most 3 s longer."""
    free_seconds = timed(instance.reload)

    def is_prompt() -> bool:
        instance.wait_for_subscriptions()
        redis_of_instances.pause()
        try:
            return timed(instance.reload) < free_seconds + 3
        finally:
            redis_of_instances.resume()

    # A listener holds up each reload, what else the machine does only some.
    assert any(is_prompt() for _ in range(3))


def timed(action: Callable[[], None]) -> float:
    """Return how many seconds something takes."""
    started_at = time.monotonic()
    action()
    return time.monotonic() - started_at


def test_the_end_leaves_nothing_behind(instance: Instance) -> None:
    """Neither a process nor a connection to Redis outlives a reload and SIGTERM.

    The last test of an instance, which ends it.
    """
    instance.wait_for_subscriptions()
    assert_ends_whole(instance)


@pytest.mark.parametrize("mode", GEVENT)
def test_the_end_under_gevent_leaves_nothing_behind(mode: str, redis_server: RedisServer) -> None:
    with Instance(*GEVENT[mode], ENDS_BY_SIGTERM, workers=2, redis=redis_server) as instance:
        instance.wait_for_subscriptions()
        assert_ends_whole(instance)


def assert_ends_whole(instance: Instance) -> None:
    """Reload an instance and end it; fail if a process or a connection is left."""
    old = set(instance.pids()) - {instance.master_pid}
    before = len(instance.log())
    instance.reload()
    assert not old & set(instance.pids())
    instance.wait_for_subscriptions()
    instance.process.send(signal.SIGTERM)
    wait_until(lambda: not instance.running, STOP_SECONDS, "uWSGI ended by itself")
    assert instance.pids() == []
    instance.wait_for_subscriptions(0)
    assert not re.search("Segmentation Fault|NO MERCY", instance.log()[before:])
