"""Reloads, respawns and deaths: whoever is left or new serves what is right, and one listens."""

from __future__ import annotations

import functools
import os
import random
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from tests.support import RedisServer, wait_until
from tests.support.processes import is_alive
from tests.support.uwsgi_server import Options
from tests.uwsgi.instance import BOOT, ELECTED, LAZY, Instance, assert_serves

MODES: dict[str, tuple[Options, ...]] = {
    "mule": (BOOT,),
    "mule-lazy": (BOOT, LAZY),
    "elected": (ELECTED,),
    "elected-lazy": (ELECTED, LAZY),
}
GEVENT: Options = {"gevent": 20, "gevent-early-monkey-patch": True}
#: Until a process that died has a successor that listens: a second for uWSGI's respawn, as much
#: for the next look at the election, and what a busy machine needs to load the application.
SUCCESSOR_SECONDS = 20.0


@pytest.fixture(scope="module", params=MODES)
def instance(request: pytest.FixtureRequest, redis_server: RedisServer) -> Iterator[Instance]:
    """Give an instance that the tests of one mode share, each leaving it whole."""
    with Instance(*MODES[request.param], workers=3, redis_url=redis_server.url) as running:
        # Of an instance that has just started, the mule may still load the application.
        wait_for_one_listener(running, redis_server)
        yield running


def wait_for_one_listener(instance: Instance, redis_server: RedisServer) -> None:
    """Return when exactly one process of the instance listens to Redis."""
    wait_until(
        lambda: redis_server.subscribers(instance.channel) == 1, SUCCESSOR_SECONDS, "one listener"
    )


def assert_whole(instance: Instance, redis_server: RedisServer) -> None:
    """Fail unless the instance does its job: busy or idle, changed here or elsewhere."""
    value = instance.update()
    for answer in instance.read_each():
        assert_serves(answer, value)
    instance.wait_until_told(value)
    wait_for_one_listener(instance, redis_server)
    with instance.elsewhere() as update:
        there = update(random.randint(10_000, 10**9))  # noqa: S311  told apart from the others
        instance.wait_until_told(there)
    for answer in instance.read_each():
        assert_serves(answer, there)


def reload_workers(instance: Instance, how: Callable[[], None]) -> None:
    """Reload the workers in some way, while nobody but them is asked anything."""
    before = instance.worker_pids()
    how()
    instance.wait_until_replaced(before)


def test_sighup_keeps_the_values_and_everybody_follows_again(
    instance: Instance, redis_server: RedisServer
) -> None:
    """The master starts anew under its old pid: signal, hook and mule are set up again."""
    value = instance.update()
    instance.reload()
    assert [answer["values"]["FIRST"] for answer in instance.read_each()] == [value] * 3
    assert_whole(instance, redis_server)


def test_chain_reload_keeps_the_values_and_everybody_follows(
    instance: Instance, redis_server: RedisServer
) -> None:
    """Workers are replaced one by one; master and mule, with the signal, stay."""
    value = instance.update()
    mules = instance.mule_pids()
    reload_workers(instance, lambda: instance.fifo("c"))
    assert instance.mule_pids() == mules
    assert [answer["values"]["FIRST"] for answer in instance.read_each()] == [value] * 3
    assert_whole(instance, redis_server)


def test_a_killed_worker_has_a_successor_that_is_right(
    instance: Instance, redis_server: RedisServer
) -> None:
    """Kill -9, an update while it is gone, and the successor has it with its first request."""
    before = instance.worker_pids()
    os.kill(before[1], signal.SIGKILL)
    value = instance.update(worker=1)
    instance.wait_for_successor(before[1])
    assert_serves(instance.read(2), value)
    assert_whole(instance, redis_server)


def test_a_killed_listener_has_a_successor(instance: Instance, redis_server: RedisServer) -> None:
    """Kill -9 of mule or elected worker: another one listens, and what was said meanwhile counts.

    The change on another host is announced while nobody here listens. Those who live are told; the
    successor of a worker may load after the change, and then has it already.
    """
    listener = listener_pid(instance, redis_server)
    survivors = [pid for pid in instance.worker_pids() if pid != listener]
    os.kill(listener, signal.SIGKILL)
    wait_until(functools.partial(is_dead, listener), 10.0, "the listener is dead")
    value = random.randint(10_000, 10**9)  # noqa: S311  as above
    with instance.elsewhere() as update:
        instance.wait_until_told(update(value), lambda: survivors)
    assert listener_pid(instance, redis_server) != listener
    instance.wait_for_successor(listener)
    for answer in instance.read_each():
        assert_serves(answer, value)
    assert_whole(instance, redis_server)


def test_a_worker_in_waiting_takes_over_before_a_successor_can(redis_server: RedisServer) -> None:
    """The elected worker dies, and what follows it takes long to load: another one listens."""
    instance = Instance(
        ELECTED, LAZY, {"module": "tests.apps.fragile:app"}, workers=2, redis_url=redis_server.url
    )
    slow = instance.directory / "slow"
    instance.environment["TEST_SLOW"] = str(slow)
    with instance:
        elected = listener_pid(instance, redis_server)
        others = set(instance.worker_pids()) - {elected}
        slow.touch()
        os.kill(elected, signal.SIGKILL)
        wait_until(functools.partial(is_dead, elected), 10.0, "the listener is dead")
        assert listener_pid(instance, redis_server) in others


def is_dead(pid: int) -> bool:
    """Whether a process has ended."""
    return not is_alive(pid)


def listener_pid(instance: Instance, redis_server: RedisServer) -> int:
    """Return the pid of the one process of the instance that listens to Redis."""

    def one_listener() -> list[int]:
        with redis_server.client() as client:
            clients = client.client_list(_type="pubsub")
        ports = {int(entry["addr"].rpartition(":")[2]) for entry in clients}
        owners = [pid for pid in instance.pids() if ports & local_ports(pid)]
        return owners if len(owners) == 1 else []

    return wait_until(one_listener, SUCCESSOR_SECONDS, "one listener")[0]


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
    with Instance(BOOT, often, workers=2, redis_url=redis_server.url) as instance:
        pids = set()
        for _ in range(25):
            value = instance.update()
            for answer in instance.read_each():
                pids.add(answer["pid"])
                assert_serves(answer, value)
        assert len(pids) > 4
        assert_whole(instance, redis_server)


def test_touch_workers_reload_is_right(redis_server: RedisServer) -> None:
    """Workers are new, master and mule are not; lazy workers load the application again."""
    options: Options = {"touch-workers-reload": "%dtouched"}
    instance = Instance(BOOT, LAZY, options, workers=2, redis_url=redis_server.url)
    touched = instance.directory / "touched"
    touched.touch()
    with instance:
        value = instance.update()
        reload_workers(instance, lambda: os.utime(touched, (time.time() + 5, time.time() + 5)))
        assert [answer["values"]["FIRST"] for answer in instance.read_each()] == [value] * 2
        assert_whole(instance, redis_server)


def test_a_mule_killed_20_times_at_random_loses_nothing(redis_server: RedisServer) -> None:
    """Changes of another host, one after the other, while the mule dies: idle workers get them."""
    kills = 20
    with (
        Instance(BOOT, workers=2, redis_url=redis_server.url) as instance,
        instance.elsewhere() as update,
    ):
        value = 0
        for _ in range(kills):
            mule = wait_until(instance.mule_pids, SUCCESSOR_SECONDS, "a mule")[0]
            for _ in range(random.randint(0, 3)):  # noqa: S311  spreads the kills
                value = update(value + 1)
                time.sleep(random.uniform(0, 0.02))  # noqa: S311  the kill comes at any moment
            os.kill(mule, signal.SIGKILL)
            value = update(value + 1)
            wait_until(functools.partial(is_dead, mule), 10.0, "the mule is dead")
        instance.wait_until_told(value)
        assert instance.count_in_log("spawned uWSGI mule") >= kills
        assert_whole(instance, redis_server)


@pytest.mark.parametrize("mode", [*MODES, "mule-gevent"])
def test_the_end_leaves_nothing_behind(mode: str, redis_server: RedisServer) -> None:
    """Neither a process nor a connection to Redis outlives a reload and SIGTERM."""
    options = MODES.get(mode, (BOOT, GEVENT))
    with Instance(
        *options, {"die-on-term": True}, workers=2, redis_url=redis_server.url
    ) as instance:
        wait_for_one_listener(instance, redis_server)
        old = set(instance.pids()) - {instance.master_pid}
        instance.reload()
        assert not old & set(instance.pids())
        wait_for_one_listener(instance, redis_server)
        instance.process.send(signal.SIGTERM)
        wait_until(lambda: not instance.running, 15.0, "uWSGI ended by itself")
        assert instance.pids() == []
        wait_until(lambda: redis_server.subscribers(instance.channel) == 0, 5.0, "0 subscriptions")
        assert instance.count_in_log("Segmentation Fault|NO MERCY") == 0


@pytest.mark.parametrize("mode", MODES)
def test_a_listener_that_waits_for_redis_does_not_hold_up_a_reload(mode: str) -> None:
    """With Redis frozen (half-open connections) a reload takes at most 3 s longer."""
    with (
        RedisServer() as redis_server,
        Instance(*MODES[mode], workers=2, redis_url=redis_server.url) as instance,
    ):
        wait_for_one_listener(instance, redis_server)
        free_seconds = timed(instance.reload)
        wait_for_one_listener(instance, redis_server)
        redis_server.pause()
        try:
            blocked_seconds = timed(instance.reload)
        finally:
            redis_server.resume()
        assert blocked_seconds < free_seconds + 3


def timed(action: Callable[[], None]) -> float:
    """Return how many seconds something takes."""
    started_at = time.monotonic()
    action()
    return time.monotonic() - started_at
