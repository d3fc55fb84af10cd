"""The proof on a real server: no idle, respawned, killed or broken worker makes it false."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support import RedisServer, wait_until
from tests.support.instance import BOOT, ELECTED, LAZY, NAMES, Instance
from tests.support.waiting import SOON_SECONDS
from uwsgi_waffle import NotConverged

MODES = pytest.mark.parametrize(
    "options", [BOOT, {**BOOT, **LAZY}, ELECTED], ids=["mule", "lazy-mule", "worker"]
)


@MODES
def test_every_worker_is_counted(options: dict[str, Any], redis_server: RedisServer) -> None:
    with Instance(options, redis=redis_server) as instance, instance.operator() as waffle:
        revision = waffle.update(dict.fromkeys(NAMES, 7)).revision
        fleet = waffle.wait(revision, SOON_SECONDS)
        mules = len(instance.mule_pids())
        assert fleet.applied == fleet.total == instance.workers + mules


@MODES
def test_an_idle_respawned_worker_is_at_the_present_revision_and_has_called_back(
    options: dict[str, Any], redis_server: RedisServer
) -> None:
    with Instance(options, redis=redis_server) as instance, instance.operator() as waffle:
        revision = waffle.update(dict.fromkeys(NAMES, 7)).revision
        waffle.wait(revision, SOON_SECONDS)
        before = instance.worker_pids()
        os.kill(before[0], signal.SIGKILL)
        wait_until(lambda: instance.has_successor(before[0]), SOON_SECONDS, "it has a successor")
        # No request reaches it, and yet:
        fleet = waffle.wait(revision, SOON_SECONDS)
        assert fleet.applied == fleet.total
        successor = (set(instance.worker_pids()) - set(before)).pop()
        if "lazy-apps" not in options:  # there it has loaded the values with the application
            wait_until(lambda: successor in instance.journal.pids(7), SOON_SECONDS, "its callback")


def test_workers_that_cannot_load_the_application_are_named(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    environment = {"TEST_BROKEN": str(broken)}
    options = {**BOOT, **LAZY}
    with (
        Instance(options, redis=redis_server, environment=environment) as instance,
        instance.operator() as waffle,
    ):
        revision = waffle.update(dict.fromkeys(NAMES, 7)).revision
        waffle.wait(revision, SOON_SECONDS)
        broken.touch()
        before = instance.worker_pids()
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        wait_until(
            lambda: len(set(instance.worker_pids()) - set(before)) == instance.workers,
            SOON_SECONDS,
            "all workers were replaced",
        )

        def is_named() -> bool:
            with contextlib.suppress(NotConverged):
                waffle.wait(revision, 0.1)
                return False
            reasons = [laggard.reason for laggard in waffle.status().fleet.missing]
            return f"{instance.workers} workers have not loaded the application" in reasons

        wait_until(is_named, SOON_SECONDS, "the workers without an application are named")


@MODES
def test_a_child_that_runs_another_program_is_not_waited_for(
    options: dict[str, Any], redis_server: RedisServer
) -> None:
    with Instance(options, redis=redis_server) as instance, instance.operator() as waffle:
        for worker in range(1, instance.workers + 1):
            assert instance.post("/child", worker=worker).status == 200
        revision = waffle.update(dict.fromkeys(NAMES, 8)).revision
        fleet = waffle.wait(revision, SOON_SECONDS)
        assert fleet.total == instance.workers + len(instance.mule_pids())
