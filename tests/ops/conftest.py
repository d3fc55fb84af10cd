"""What the tests of the proof share: two hosts in this process that report quickly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.conftest import Apps
from tests.support import RedisServer, wait_until
from tests.support.listening import Host
from tests.support.waiting import SOON_SECONDS
from uwsgi_waffle import Health, NotConverged
from uwsgi_waffle.bus import reports
from uwsgi_waffle.bus.fleet import Fleet
from uwsgi_waffle.listen import reporter
from uwsgi_waffle.ops import convergence
from uwsgi_waffle.ops.doctor import examine


@dataclass
class Site:
    """Two hosts of one database."""

    here: Host
    there: Host


def start(*hosts: Host) -> None:
    """Start the listeners of hosts, and return when each host has reported."""
    for host in hosts:
        host.listen()

    def all_have_reported() -> bool:
        known = hosts[0].waffle.status().hosts  # those that have only registered, too
        return len(known) == sum(host.position.exists for host in known) == len(hosts)

    wait_until(all_have_reported, SOON_SECONDS, "all have reported")


def fails_with(
    host: Host, part: str, seen: list[str] | None = None
) -> Callable[[], NotConverged | None]:
    """Return a function that gives the refusal of `wait` once a reason in it holds a text.

    :param seen: is given the reasons of the last look
    """
    seen = [] if seen is None else seen

    def look() -> NotConverged | None:
        try:
            host.waffle.wait(host.state.store.peek().revision, timeout=0)
        except NotConverged as error:
            seen[:] = [*map(str, error.missing), *map(str, error.refused)]
            return error if any(part in reason for reason in seen) else None
        return None

    return look


def refusal_of(host: Host, part: str) -> NotConverged:
    """Return the refusal of `wait` once a reason in it holds a text."""
    seen: list[str] = []
    try:
        error = wait_until(fails_with(host, part, seen), SOON_SECONDS, f"{part!r} is refused")
    except AssertionError as failure:
        message = f"`wait` fails with {seen}, not with {part!r}"
        raise AssertionError(message) from failure
    assert error is not None
    return error


def proved(host: Host) -> Fleet:
    """Return the fleet once every process is proved to serve SQL's state."""
    return host.waffle.wait(host.state.store.peek().revision, timeout=SOON_SECONDS)


def codes(host: Host) -> set[str]:
    """Return what the doctor finds."""
    return {finding.code for finding in examine(host.state).findings}


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


WELL = Health(ready=True, live=True)


def becomes(ask: Callable[[], Health], wanted: Callable[[Health], bool], what: str) -> Health:
    """Return the first health that is as wanted."""
    found: list[Health] = []

    def look() -> bool:
        found.append(ask())
        return wanted(found[-1])

    wait_until(look, SOON_SECONDS, what)
    return found[-1]
