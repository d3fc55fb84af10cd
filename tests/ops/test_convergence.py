"""`wait` says yes where each process serves SQL's present state, and else names the reason."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.bus.conftest import host_at
from tests.conftest import Apps, state_of
from tests.host.others import MEMBER
from tests.ops.conftest import Site, proved, refusal_of, start
from tests.support import RedisServer, wait_until
from tests.support.listening import Host
from tests.support.programs import Program
from tests.support.waiting import SOON_SECONDS
from uwsgi_waffle import NotConverged, StoreUnavailable
from uwsgi_waffle.bus import reports
from uwsgi_waffle.bus.fleet import Fleet, this_host
from uwsgi_waffle.host.records import HostSnapshot
from uwsgi_waffle.ops import convergence
from uwsgi_waffle.ops.doctor import examine
from uwsgi_waffle.values.position import Position


def test_every_process_of_every_host_is_proved(site: Site) -> None:
    site.here.change(2)
    fleet = proved(site.there)
    assert (fleet.applied, fleet.total, len(fleet.hosts)) == (2, 2, 2)
    assert (site.here.size, site.there.size) == (2, 2)


def test_a_worker_that_waits_follows_what_others_commit_meanwhile(apps: Apps) -> None:
    """It runs no signal's handler before its request ends, so nothing else moves it."""
    app, waffle = apps(WAFFLE_CONFS={"SIZE": {"default": 1}})
    state_of(app).host.register("worker", 1, follows=True)
    state_of(app).host.slots.record_listener("live")
    state_of(app).host.beat()
    state_of(app).serving.record()
    _, other = apps(WAFFLE_CONFS={"SIZE": {"default": 1}})
    other.update({"SIZE": 2})
    fleet = waffle.wait(1, timeout=SOON_SECONDS)
    assert (fleet.applied, fleet.total) == (1, 1)


def test_a_process_at_a_deleted_snapshot_is_waited_for_by_one_that_makes_another(
    site: Site, tmp_path: Path
) -> None:
    """Such as a command, whose own file lists none; other hosts are known."""
    site.here.change(2)
    (elsewhere,) = proved(site.there).hosts[:1]
    host = HostSnapshot(tmp_path / "snapshot")
    with Program(MEMBER, host.path) as member:
        assert member.ask() == str(member.pid)
        host.path.unlink()
        own = this_host(HostSnapshot(host.path), "web", 3.0)
        assert not own.processes
        reported = replace(elsewhere, id=host.host_id)
        known = convergence.known_hosts(own, [elsewhere, reported])
        assert known == tuple(sorted([own, elsewhere], key=lambda h: (h.name, h.id)))
        (laggard,) = Fleet(elsewhere.position, known).missing
        assert laggard.host == "web"


def test_a_revision_that_sql_does_not_have_yet_is_not_proved(site: Site) -> None:
    site.here.change(2)
    proved(site.here)
    with pytest.raises(NotConverged) as caught:
        site.here.waffle.wait(2, timeout=0.1)
    assert [laggard.reason for laggard in caught.value.missing] == [
        "SQL is at revision 1, not yet at 2"
    ]


def test_a_host_that_lags_is_named_and_its_acknowledgement_is_pushed(
    site: Site, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`wait` reads the reports once; what follows, hosts publish."""
    monkeypatch.setattr(convergence, "LOOK_AT_REPORTS_SECONDS", 3600.0)
    monkeypatch.setattr(reports, "SILENT_SECONDS", 3600.0)
    may_follow, waits = threading.Event(), threading.Event()

    def hold() -> None:
        waits.set()
        assert may_follow.wait(SOON_SECONDS)

    site.there.on_move = hold
    site.here.change(2)
    assert waits.wait(SOON_SECONDS)
    error = refusal_of(site.here, "has revision 0")
    assert (error.fleet.applied, error.fleet.total) == (1, 2)
    with ThreadPoolExecutor(1) as pool, redis_server.client() as client:
        client.config_resetstat()
        answer = pool.submit(proved, site.here)
        wait_until(lambda: reads(client), SOON_SECONDS, "it has read the reports")
        assert not answer.done()
        may_follow.set()
        assert answer.result(SOON_SECONDS).applied == 2
        assert reads(client) == 1


def reads(client: Any) -> int:
    """Return how often the reports of all hosts were read."""
    return int(client.info("commandstats").get("cmdstat_hgetall", {"calls": 0})["calls"])


def test_an_acknowledgement_that_is_replayed_does_not_replace_a_later_one(site: Site) -> None:
    view = convergence._View(site.here.state)  # noqa: SLF001
    lagging = host_at(served=2, reported_at=20.0)
    for published in ([lagging], [host_at(served=3, reported_at=19.9)]):
        view.receive(lambda _seconds, hosts=published: hosts)  # type: ignore[misc]
    assert view._hosts == {lagging.id: lagging}  # noqa: SLF001


def test_a_state_before_the_one_that_is_waited_for_is_none_of_the_later_ones(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQL has moved on twice, and was away in between, as at a restart."""
    monkeypatch.setattr(convergence, "ASK_SQL_SECONDS", 0.0)
    here = site.here
    here.change(2)
    view = convergence._View(here.state)  # noqa: SLF001
    view.ask_sql(1)
    here.change(3)
    second = here.position
    view.ask_sql(1)
    assert view.fleet(0.0).is_served(second), "what has moved on has the state that is waited for"

    def refuse() -> Position:
        message = "it restarts"
        raise StoreUnavailable(message, url="")

    with monkeypatch.context() as patch:
        patch.setattr(here.state.store, "peek", refuse)
        assert not view.is_still_right()
    third = here.commit().position
    view.ask_sql(1)
    fleet = view.fleet(0.0)
    assert fleet.is_served(third)
    assert not fleet.is_served(second)


@pytest.mark.parametrize("hosts", [10, 1000])
def test_a_look_takes_as_many_commands_at_any_number_of_hosts(
    site: Site, redis_server: RedisServer, hosts: int
) -> None:
    site.here.change(2)
    proved(site.here)
    for host in (site.here, site.there):
        assert host.state.environment is not None
        host.state.environment.stop(SOON_SECONDS)
    position = site.here.state.host.position
    for number in range(hosts):
        site.here.state.reports.put(host_at(position, f"{number:016}", name=f"web{number}"))
    with redis_server.client() as client:
        client.config_resetstat()
        fleet = convergence.look(site.here.state, 1)
        stats: Any = client.info("commandstats")
    assert len(fleet.hosts) >= hosts
    assert sum(stat["calls"] for stat in stats.values()) <= 10


def test_a_message_names_few_of_many_reasons_and_the_exception_all(site: Site) -> None:
    site.here.change(2)
    proved(site.here)
    behind = replace(site.here.state.host.position, revision=0)
    for number in range(30):
        host = host_at(behind, f"{number:016}", name=f"web{number}")
        site.here.state.reports.put(host)
    with pytest.raises(NotConverged, match="; and 20 more, which `flask waffle status`") as caught:
        site.here.waffle.wait(1, timeout=0)
    assert len(caught.value.missing) == 30
    assert str(caught.value).count("web") == 10


@pytest.mark.usefixtures("quick_reports")
def test_a_release_that_refuses_a_value_is_named(apps: Apps, redis_server: RedisServer) -> None:
    new, old = (
        Host(apps, name, redis_server, confs={"SIZE": {"default": 1, "le": most}})
        for name, most in (("new", 10_000), ("old", 100))
    )
    start(new, old)
    new.change(10)
    assert proved(new).applied == 2
    new.change(5000)
    error = refusal_of(new, "refuses SIZE")
    (refusal,) = error.refused
    assert error.missing == ()
    assert (error.fleet.applied, error.fleet.total) == (1, 2)
    assert (refusal.pid, refusal.name, refusal.serving) == (os.getpid(), "SIZE", "last good value")
    assert "less than or equal to 100" in refusal.reason
    assert refusal.host.startswith(old.state.host_name)
    assert old.size == 10
    assert new.waffle.status().fleet.refused == (refusal,)
    found = {finding.code: finding.fact for finding in examine(new.state).findings}
    assert "value-refused" in found
    for host in (new, old):
        label = f"{host.state.host_name}#{host.state.host.host_id[:6]}"
        assert f"{label} ({host.state.declaration.digest})" in found["declarations-differ"]
    new.change(50)
    assert proved(new).applied == 2


@pytest.mark.usefixtures("quick_reports")
def test_a_setting_that_a_release_does_not_declare_is_not_refused(
    apps: Apps, redis_server: RedisServer
) -> None:
    confs = {"SIZE": {"default": 1}, "COLOUR": {"default": "red"}}
    new = Host(apps, "new", redis_server, confs=confs)
    old = Host(apps, "old", redis_server)
    start(new, old)
    new.waffle.update({"COLOUR": "blue"})
    assert proved(new).applied == 2
