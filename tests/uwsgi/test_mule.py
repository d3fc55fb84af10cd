"""The mule's own life: what hangs is killed, what cannot load is tried again, never in a loop."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.apps.misbehaviour import HANG_IN_MULE, LEAVE
from tests.support import RedisServer, wait_until
from tests.support.instance import BOOT, LAZY, Instance
from tests.support.processes import STOP_SECONDS, is_alive
from tests.support.uwsgi_server import Options
from tests.support.waiting import SOON_SECONDS

FRAGILE: Options = {"module": "tests.apps.fragile:app"}


@pytest.mark.parametrize("lazy", [{}, LAZY], ids=["prefork", "lazy"])
def test_a_mule_that_hangs_is_killed_and_comes_back(
    lazy: Options, redis_server: RedisServer
) -> None:
    """A hanging validator stops the loop; the watchdog ends the mule, and its successor works."""
    instance = Instance(
        BOOT,
        FRAGILE,
        lazy,
        workers=2,
        redis=redis_server,
        environment={"TEST_TROUBLE": "/dev/null", "TEST_WATCHDOG": "2"},
    )
    with instance:
        instance.wait_for_subscriptions()
        hung = instance.mule_pids()[0]
        with instance.elsewhere() as update:
            instance.wait_until_called_back(update(HANG_IN_MULE))
            wait_until(lambda: not is_alive(hung), SOON_SECONDS, "the hung mule was killed")
            wait_until(instance.mule_pids, SOON_SECONDS, "a successor")
            instance.wait_for_subscriptions()
            instance.wait_until_called_back(update(9))


def test_the_watchdog_of_a_mule_ends_with_it(redis_server: RedisServer) -> None:
    """In a reload uWSGI else kills what then is at its pid, 0: its whole process group."""
    instance = Instance(
        BOOT,
        FRAGILE,
        workers=1,
        redis=redis_server,
        environment={"TEST_TROUBLE": "/dev/null", "TEST_WATCHDOG": "2"},
    )
    with instance, ThreadPoolExecutor(1) as pool:
        instance.wait_for_subscriptions()
        mule = instance.mule_pids()[0]
        slow = pool.submit(instance.read, path="/?hold=6")
        wait_until(lambda: instance.stats()["workers"][0]["status"] == "busy", SOON_SECONDS, "busy")
        instance.process.send(signal.SIGHUP)
        wait_until(lambda: not is_alive(mule), SOON_SECONDS, "the mule has ended")
        assert "pid" in slow.result()
        instance.wait_for_subscriptions()
        assert instance.mule_pids() not in ([], [mule])
        assert instance.count_in_log("HARAKIRI") == 0


TROUBLES = {
    "raise": "this application does not load",
    "exit": "this application ends the process",
    "none": "found no application.*waffle-app",
}


@contextlib.contextmanager
def troubled(
    trouble: str, redis: RedisServer, options: Options | None = None
) -> Iterator[tuple[Instance, Path]]:
    """Run an instance whose mule meets some trouble, as a file says until it is emptied."""
    instance = Instance(BOOT, LAZY, FRAGILE, options or {}, workers=2, redis=redis)
    path = instance.directory / "trouble"
    path.write_text(trouble)
    instance.environment["TEST_TROUBLE"] = str(path)
    with instance:
        yield instance, path


@pytest.mark.parametrize("trouble", TROUBLES)
def test_an_app_that_does_not_load_in_the_mule_is_tried_again(
    trouble: str, redis_server: RedisServer
) -> None:
    """No crash loop: one mule waits longer each time, logs why, and works when the app does."""
    with troubled(trouble, redis_server) as (instance, path):
        instance.wait_for_log(TROUBLES[trouble])
        instance.wait_for_log("Set `waffle-app = module:app`", 2)
        assert instance.count_in_log("spawned uWSGI mule") == 1
        instance.wait_until_called_back(instance.assert_right())
        path.write_text("")
        if trouble != "none":  # what has been imported without an error is not imported again
            instance.wait_for_subscriptions()
            instance.follow_elsewhere(9)
        assert instance.count_in_log("OOOPS") == 0


def test_a_mule_that_cannot_start_to_listen_is_replaced(redis_server: RedisServer) -> None:
    """Not at once, again and again, but after a while; the next one listens."""
    with troubled("threads", redis_server) as (instance, path):
        instance.wait_for_log("the mule could not start its listener.*uWSGI starts another mule")
        assert instance.count_in_log("spawned uWSGI mule") == 1
        path.write_text("")
        instance.wait_for_subscriptions()
        assert instance.count_in_log("spawned uWSGI mule") == 2
        instance.follow_elsewhere(9)


def test_a_mule_that_waits_for_an_app_does_not_hold_up_the_end(redis_server: RedisServer) -> None:
    """SIGHUP and SIGTERM end it at once, in the middle of its back-off."""
    with troubled("raise", redis_server, {"die-on-term": True}) as (instance, _):
        instance.wait_for_log(TROUBLES["raise"])
        instance.process.send(signal.SIGTERM)
        wait_until(lambda: not instance.running, STOP_SECONDS, "uWSGI ended by itself")
        assert instance.pids() == []


def test_a_callback_that_calls_exit_ends_no_process(redis_server: RedisServer) -> None:
    """SystemExit in a signal handler would end the worker; it is logged, and all processes live."""
    with Instance(BOOT, workers=2, redis=redis_server) as instance:
        instance.wait_until_called_back(instance.set_all())
        before = instance.worker_pids(), instance.mule_pids()
        instance.follow_elsewhere(LEAVE, 10)
        assert (instance.worker_pids(), instance.mule_pids()) == before
        # Twice, by the two workers: no callback of the application runs in the mule.
        assert instance.count_in_log("on_change.'S001'. failed at revision") == 2
