"""`status` and `doctor`: what is wrong is named, and nothing else is."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from tests.conftest import Apps
from tests.host.others import MEMBER
from tests.ops.conftest import Site, codes, start
from tests.support import RedisServer, wait_until
from tests.support.listening import Host, messages
from tests.support.programs import Program
from tests.support.waiting import SOON_SECONDS
from uwsgi_waffle.ops.doctor import examine
from uwsgi_waffle.values.position import Position


def test_concurrent_writes_are_no_restored_backup(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The host may have moved on by the time that SQL's answer is looked at."""
    here, store = site.here, site.here.state.store
    answer = store.peek

    def overtaken() -> Position:
        found = answer()
        here.state.host.publish(site.there.commit())
        return found

    monkeypatch.setattr(store, "peek", overtaken)
    for _ in range(5):
        # On a busy machine the listener may seem to be gone, as it is to look every 0.2 s.
        assert [p for p in here.waffle.status().problems if "resync" in p] == []
    monkeypatch.undo()
    assert messages(caplog.records, "resync") == []


def test_forged_messages_and_reports_are_counted_and_shown(
    site: Site, redis_server: RedisServer
) -> None:
    site.here.change(2)
    site.here.waffle.wait(1, timeout=SOON_SECONDS)
    lineage = site.here.position.lineage
    with redis_server.client() as client:
        key = f"{{waffleconf:default}}:{lineage}:details"
        for number, text in enumerate(("", "x", "[" * 100_000, '{"reported_at": NaN}', "\\ud800")):
            client.hset(key, f"{number:016}", text)
        client.publish("waffleconf", "[" * 1000)
    counted = wait_until(lambda: site.here.state.host.ignored_count, SOON_SECONDS, "it is counted")
    status = site.here.waffle.status()
    assert (counted, status.ignored) == (1, 6)
    assert (len(status.hosts), status.fleet.missing) == (2, ())
    assert any("6 messages were not signed by our key" in p for p in status.problems)
    findings = examine(site.here.state).findings
    assert [(f.code, f.is_wrong) for f in findings] == [("messages-ignored", False)]


@pytest.mark.parametrize("name", ["details", "lineages"])
def test_a_key_of_another_type_is_named_and_raises_nothing(
    site: Site, redis_server: RedisServer, name: str
) -> None:
    """`wait` and `status` fail in words, and are well again once it is deleted."""
    site.here.change(2)
    lineage = f"{site.here.position.lineage}:" if name == "details" else ""
    key = f"{{waffleconf:default}}:{lineage}{name}"
    with redis_server.client() as client:
        client.delete(key)
        client.set(key, "x")
        status = site.here.waffle.status()
        assert any("WRONGTYPE" in problem for problem in status.problems)
        assert "redis-unavailable" in {f.code for f in examine(site.here.state).findings} or (
            name == "details"
        )
        client.delete(key)
    wait_until(lambda: len(site.here.waffle.status().hosts) == 2, SOON_SECONDS, "all is well again")
    site.here.waffle.wait(1, timeout=SOON_SECONDS)
    assert site.here.waffle.status().problems == ()


def test_a_database_that_does_not_answer_is_named(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.here.change(2)
    site.here.waffle.wait(1, timeout=SOON_SECONDS)

    def fail() -> Any:
        raise site.here.state.store.database.unavailable(sa.exc.SQLAlchemyError("no route"))

    monkeypatch.setattr(site.here.state.store, "peek", fail)
    status = site.here.waffle.status()
    assert (status.position, status.revision, status.lineage) == (None, None, None)
    assert [laggard.reason for laggard in status.fleet.missing] == ["SQL does not answer"]
    assert any("The last known settings are served." in problem for problem in status.problems)
    monkeypatch.undo()


@pytest.mark.usefixtures("quick_reports")
def test_a_listener_that_only_polls_is_named(apps: Apps, own_redis: RedisServer) -> None:
    here = Host(apps, "here", own_redis, poll_seconds=0.2)
    start(here)
    here.wait_until_heard_by(own_redis)
    own_redis.kill()
    here.wait_until_listener("polling")
    problems = here.waffle.status().problems
    assert any("does not answer" in problem for problem in problems)
    assert any("only polls SQL, every 0.2 s" in problem for problem in problems)


def test_the_doctor_names_a_process_at_a_host_snapshot_that_was_deleted(site: Site) -> None:
    path = site.here.state.host.path
    site.here.change(2)
    with Program(MEMBER, path) as member:
        assert str(member.pid) in member.ask()
        assert "snapshot-replaced" not in codes(site.here)
        path.unlink()
        wait_until(lambda: "snapshot-replaced" in codes(site.here), SOON_SECONDS, "it is named")
        member.ask("verify")
        assert "snapshot-replaced" not in codes(site.here)
