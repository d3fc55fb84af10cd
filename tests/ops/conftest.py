"""What the tests of the proof share: two hosts in this process that report quickly."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tests.conftest import Apps
from tests.support import RedisServer, wait_until
from tests.support.listening import Host
from tests.support.waiting import SOON_SECONDS
from uwsgi_waffle.bus import reports
from uwsgi_waffle.listen import reporter
from uwsgi_waffle.ops import convergence


@dataclass
class Site:
    """Two hosts of one database."""

    here: Host
    there: Host


def start(*hosts: Host) -> None:
    """Start the listeners of hosts, and return when each host has reported."""
    for host in hosts:
        host.listen()
    wait_until(
        lambda: len(hosts[0].waffle.status().hosts) == len(hosts), SOON_SECONDS, "all are known"
    )


@pytest.fixture
def quick_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have hosts report often, and count as silent soon."""
    monkeypatch.setattr(reporter, "REPORT_SECONDS", 0.1)
    monkeypatch.setattr(reports, "SILENT_SECONDS", 1.5)
    monkeypatch.setattr(convergence, "LOOK_AT_REPORTS_SECONDS", 0.2)


@pytest.fixture
def site(apps: Apps, redis_server: RedisServer, quick_reports: None) -> Site:  # noqa: ARG001
    """Give two hosts that listen, and poll often."""
    made = Site(*(Host(apps, name, redis_server, poll_seconds=0.2) for name in ("here", "there")))
    start(made.here, made.there)
    return made
