"""Hosts that cannot prove what they serve are named, whatever keeps them from it."""

from __future__ import annotations

import time

import pytest

from tests.conftest import Apps
from tests.ops.conftest import Site, codes, proved, refusal_of, start
from tests.support import RedisServer, wait_until
from tests.support.listening import Host, messages
from tests.support.waiting import SOON_SECONDS

pytestmark = pytest.mark.usefixtures("quick_reports")


@pytest.mark.parametrize("why", ["full", "ACL"])
def test_a_host_that_cannot_report_proves_nothing(
    apps: Apps, own_redis: RedisServer, caplog: pytest.LogCaptureFixture, why: str
) -> None:
    """Redis has no room, or does not allow it; changes are announced and followed all the same."""
    refuse, allow = {
        "full": (("CONFIG SET", "maxmemory", "1"), ("CONFIG SET", "maxmemory", "0")),
        "ACL": (("ACL SETUSER", "default", "-hset"), ("ACL SETUSER", "default", "+hset")),
    }[why]
    here, there = (Host(apps, name, own_redis) for name in ("here", "there"))
    start(here, there)
    here.change(2)
    assert proved(here).applied == 2
    with own_redis.client() as operator:
        operator.execute_command(*refuse)
        for host in (here, there):
            error = refusal_of(host, "cannot report")
            assert error.fleet.applied < error.fleet.total
        assert here.change(3), "it is announced"
        there.wait_until_serving(3)
        for host in (here, there):
            refusal_of(host, "cannot report")
            assert any("cannot report" in problem for problem in host.waffle.status().problems)
        operator.execute_command(*allow)
    assert proved(here).applied == proved(there).applied == 2
    reasons = {host.reason for host in here.state.registry.read()}
    assert reasons == {""}, "the notes are gone"
    assert len(messages(caplog.records, "this host cannot report to Redis")) == 2


def test_a_redis_that_allows_no_subscription_costs_time_and_no_truth(
    apps: Apps, own_redis: RedisServer
) -> None:
    """Hosts report all the same, so a change is proved once the last of them has polled."""
    with own_redis.client() as operator:
        operator.execute_command("ACL SETUSER", "default", "-subscribe")
        here, there = (Host(apps, name, own_redis, poll_seconds=0.2) for name in ("here", "there"))
        for host in (here, there):
            host.listen()
            host.wait_until_listener("polling")
        assert not here.change(2), "it is not announced"
        wait_until(lambda: len(here.waffle.status().hosts) == 2, SOON_SECONDS, "both have reported")
        assert proved(here).applied == 2
        assert (here.size, there.size) == (2, 2)
        assert any("only polls SQL" in problem for problem in there.waffle.status().problems)


def test_a_note_that_a_killed_process_left_does_not_count_while_the_host_reports(
    site: Site,
) -> None:
    site.here.change(2)
    host = site.there.state.host
    site.here.state.registry.register(host.host_id, "there", "Redis was full")
    assert proved(site.here).applied == 2
    site.here.state.registry.register("f" * 16, "other", "Redis is full")
    error = refusal_of(site.here, "it cannot report to Redis (Redis is full)")
    assert [laggard.host for laggard in error.missing] == ["other"]


@pytest.mark.parametrize("asked", ["here", "there"])
def test_a_host_without_shared_memory_proves_nothing(
    apps: Apps, redis_server: RedisServer, asked: str
) -> None:
    blocked = apps.directory / "blocked"
    blocked.touch()
    here = Host(apps, "here", redis_server, snapshot_path=str(blocked / "snapshot"))
    there = Host(apps, "there", redis_server)
    start(here, there)
    there.change(2)
    here.wait_until_serving(2)
    by = here if asked == "here" else there

    def counts() -> tuple[int, int]:
        fleet = refusal_of(by, "its processes share no memory").fleet
        return fleet.applied, fleet.total

    wait_until(lambda: counts() == (1, 2), SOON_SECONDS, "the other host alone is proved")


def test_a_host_whose_listener_ended_proves_nothing_and_falls_silent(site: Site) -> None:
    site.here.change(2)
    proved(site.here)
    assert site.there.state.environment is not None
    site.there.state.environment.stop(SOON_SECONDS)
    refusal_of(site.there, "no listener runs there")
    error = refusal_of(site.here, "silent since")
    assert (error.fleet.applied, error.fleet.total) == (1, 2)
    assert "host-silent" in codes(site.here)
    host = site.there.state.host
    site.here.state.reports.retire(host.host_id, host.position.lineage)
    refusal_of(site.here, "Redis holds no report of it")
    site.here.state.registry.forget(host.host_id)
    assert proved(site.here).total == 1


def test_a_host_that_ends_in_an_orderly_way_is_not_waited_for(site: Site) -> None:
    site.here.change(2)
    assert proved(site.here).total == 2
    assert site.there.state.environment is not None
    site.there.state.environment.stop(SOON_SECONDS)
    site.there.state.retire()
    assert proved(site.here).total == 1


def test_while_redis_is_away_other_hosts_are_not_known(apps: Apps, own_redis: RedisServer) -> None:
    here = Host(apps, "here", own_redis)
    start(here)
    here.change(2)
    assert proved(here).total == 1
    own_redis.kill()
    error = refusal_of(here, "not known, as Redis at")
    assert [laggard.host for laggard in error.missing if laggard.process is None][-1] == (
        "(any other)"
    )
    here.wait_until_listener("polling")
    # However long it has been away, a host reports as soon as it hears Redis again.
    here.state._reporter._retry_at = time.monotonic() + 3600  # noqa: SLF001
    own_redis.start()
    here.wait_until_listener("live")
    wait_until(
        lambda: here.state.reports.read(here.position.lineage).hosts, SOON_SECONDS, "it reports"
    )
    assert proved(here).total == 1
