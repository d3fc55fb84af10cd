"""What a host reports of itself."""

from __future__ import annotations

import socket
import time
from types import SimpleNamespace
from typing import Any

import pytest

from tests.conftest import Apps
from tests.host.others import MEMBER
from tests.support import RedisServer
from tests.support.listening import Host
from tests.support.programs import Program
from tests.support.waiting import NEVER_SECONDS
from uwsgi_waffle.listen import reporter as module
from uwsgi_waffle.server import _uwsgi

MASTER_PID = 77


class ServerOfTwoWorkers:
    """A uWSGI whose workers both run."""

    worker_count = 2

    def master_pid(self) -> int:
        """Return the pid of its master."""
        return MASTER_PID

    def running_workers(self) -> int:
        """Return how many run."""
        return self.worker_count


def test_a_host_name_that_is_no_utf_8_is_one_like_others(
    apps: Apps, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux takes any bytes, and Python gives what it cannot read as half of a surrogate pair."""
    monkeypatch.setattr(socket, "gethostname", lambda: "b\udcfcro")
    here = Host(apps, "here", redis_server)
    here.listen(redis_server)
    here.change(2)
    (host,) = here.waffle.wait(1).hosts
    assert host.name == "b\N{REPLACEMENT CHARACTER}ro"


def test_the_first_report_of_a_mule_counts_the_workers(
    writer: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its predecessor was killed right after it had reported, so the next report is not due."""
    state: Any = writer.state
    state.host.register("mule", 1, MASTER_PID, follows=True)
    state.host.publish(state.store.read())
    assert state.host.claim_report(NEVER_SECONDS), "the predecessor reports"
    monkeypatch.setattr(_uwsgi, "server", ServerOfTwoWorkers())
    listener: Any = SimpleNamespace(is_live=True, error=None)
    state.loop._reporter.report_if_due(listener)  # noqa: SLF001  # what runs it would also listen
    (reported,) = state.reports.read(state.host.position.lineage).hosts
    assert (reported.following, reported.unlisted) == (1, 2)


def test_a_change_is_reported_once_when_the_processes_had_a_moment_to_take_it(
    writer: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not for each change anew, or changes in a row would never be reported."""
    state: Any = writer.state
    state.host.register("process", follows=True)
    listener: Any = SimpleNamespace(is_live=True, error=None)
    reporter = state.loop._reporter  # noqa: SLF001  what runs it would also listen
    reporter.report_if_due(listener)

    def reported() -> int:
        (host,) = state.reports.read(state.host.position.lineage).hosts
        return int(host.position.revision)

    monkeypatch.setattr(module, "SETTLE_SECONDS", 30.0)
    before = reported()
    writer.waffle.update({"SIZE": 2})
    first_seconds = reporter.report_if_due(listener)
    writer.waffle.update({"SIZE": 3})
    assert reporter.report_if_due(listener) < first_seconds <= module.SETTLE_SECONDS
    assert reported() == before

    later = time.monotonic() + module.SETTLE_SECONDS
    monkeypatch.setattr(time, "monotonic", lambda: later)
    reporter.report_if_due(listener)
    assert reported() == state.host.position.revision > before


def test_the_last_listed_process_does_not_retire_a_host_that_another_one_has_yet_to_find(
    writer: Host,
) -> None:
    """It is at a file that was replaced, and serves on."""
    host = writer.state.host
    host.register("process", follows=True)
    writer.state.registry.register(host.host_id, "here")
    with Program(MEMBER, host.path) as member:
        assert member.ask().endswith(f" {member.pid}")
        host.path.unlink()
        assert host.verify()
        host.note_registered()
        writer.state.retire()
        assert [known.id for known in writer.state.registry.read()] == [host.host_id]
        member.kill()
    host.note_registered()
    writer.state.retire()
    assert writer.state.registry.read() == []
