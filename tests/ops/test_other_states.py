"""`wait` and `status` where the database is another one, or holds another state than before."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from typing import Any

import pytest

from tests.conftest import Apps, execute
from tests.ops.conftest import Site, codes, proved, refusal_of, start
from tests.support import RedisServer, wait_until
from tests.support.listening import Host, messages
from tests.support.waiting import SOON_SECONDS
from uwsgi_waffle import NotConverged
from uwsgi_waffle.sql.maintenance import resync
from uwsgi_waffle.values.position import Position


def backup(apps: Apps) -> list[tuple[Any, ...]]:
    """Return what a restore needs: the position."""
    return execute(apps.database_uri, "SELECT revision, stamp FROM waffle_namespace")


def restore(apps: Apps, saved: list[tuple[Any, ...]]) -> None:
    """Put a database back to an earlier revision, as a backup or a lagging replica does."""
    revision, stamp = saved[0]
    execute(
        apps.database_uri,
        f"DELETE FROM waffle_change WHERE revision > {revision}",  # noqa: S608  # our own numbers
        f"UPDATE waffle_setting SET value = '{revision}', revision = {revision}",  # noqa: S608
        f"UPDATE waffle_namespace SET revision = {revision}, stamp = '{stamp}'",  # noqa: S608
    )


def test_after_a_failover_to_a_replica_that_lagged_every_process_serves_sqls_state(
    apps: Apps, site: Site, redis_server: RedisServer
) -> None:
    """Two states of one revision: what was committed before, and what is committed since."""
    site.here.change(1001)
    saved = backup(apps)
    site.here.change(333)
    before = proved(site.here).position
    restore(apps, saved)
    with redis_server.client() as client:
        # The next writer must not know of the revision that was lost.
        client.delete(f"{{waffleconf:default}}:{before.lineage}:highest")
    box = Host(apps, "box", redis_server, listens=False)
    record = box.commit(777)
    assert record.position.revision == before.revision
    box.announce(record)
    fleet = proved(site.here)
    assert (fleet.position, fleet.applied, fleet.total) == (record.position, 2, 2)
    for host in (site.here, site.there):
        assert (host.position, host.size) == (record.position, 777)


@pytest.mark.usefixtures("quick_reports")
def test_after_writes_on_two_primaries_every_process_serves_the_state_of_the_one_that_stays(
    apps: Apps, redis_server: RedisServer
) -> None:
    here = Host(apps, "here", redis_server, poll_seconds=0.2)
    here.commit(2)
    copied = apps.directory / "second.db"
    shutil.copy(apps.directory / "waffle.db", copied)
    second = Apps(apps.directory / "second", f"sqlite:///{copied}")
    try:
        there = Host(second, "there", redis_server, poll_seconds=0.2)
        start(here, there)
        lost, kept = here.commit(333), there.commit(777)
        assert lost.position.revision == kept.position.revision
        here.wait_until_serving(333)
        there.wait_until_serving(777)
        for host in (here, there):
            refusal_of(host, "but another state of it than SQL's")
        with (
            contextlib.closing(sqlite3.connect(copied)) as from_,
            contextlib.closing(sqlite3.connect(apps.directory / "waffle.db")) as to,
        ):
            from_.backup(to)
        fleet = proved(here)
        assert (fleet.position, fleet.applied, fleet.total) == (kept.position, 2, 2)
        assert (here.size, there.size) == (777, 777)
    finally:
        second.close()


def test_a_host_ahead_of_sql_is_named_until_sql_has_passed_it(
    apps: Apps,
    site: Site,
    redis_server: RedisServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A restored backup: no process can prove anything, until a resync from any box."""
    site.here.change(2)
    saved = backup(apps)
    site.here.change(3)
    site.here.change(4)
    assert proved(site.there).revision == 3
    restore(apps, saved)
    box = Host(apps, "box", redis_server, listens=False)
    for asked in (site.here, site.there, box):
        error = refusal_of(asked, "ahead of SQL's 1: run `flask waffle resync`")
        assert error.fleet.applied == 0
    wait_until(
        lambda: messages(caplog.records, "ahead of SQL"), SOON_SECONDS, "the listeners log it"
    )
    assert any("ahead of SQL" in problem for problem in site.here.waffle.status().problems)
    assert "database-behind" in codes(site.here)

    lineage = box.state.store.peek().lineage
    moved = resync(box.state.store, [box.state.reports.highest(lineage)])
    assert moved is not None
    assert moved.position.revision == 4
    box.state.writer.spread(moved)
    assert proved(site.here).applied == 2
    assert (site.here.size, site.there.size) == (1, 1), "what the backup holds"


@pytest.mark.usefixtures("quick_reports")
def test_a_state_that_sql_has_lost_meanwhile_is_not_proved(
    apps: Apps, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failover just after `wait` has asked SQL for its position."""
    here, there = (Host(apps, name, redis_server) for name in ("here", "there"))
    start(here, there)
    here.change(2)
    proved(here)
    ask = here.state.store.peek

    def overtaken() -> Position:
        found = ask()
        for table in ("waffle_namespace", "waffle_change"):
            execute(apps.database_uri, f"UPDATE {table} SET stamp = '{'f' * 16}'")  # noqa: S608
        return found

    monkeypatch.setattr(here.state.store, "peek", overtaken)
    with pytest.raises(NotConverged, match="but another state of it than SQL's"):
        here.waffle.wait(1, timeout=1.0)


@pytest.mark.usefixtures("quick_reports")
def test_a_host_that_is_still_at_the_database_before_is_named(
    apps: Apps, redis_server: RedisServer
) -> None:
    """It cannot read the announcement, and neither is it registered in the new database."""
    here, there = (Host(apps, name, redis_server) for name in ("here", "there"))
    start(here, there)
    here.change(2)
    proved(here)
    tables = ("namespace", "setting", "change", "host")
    execute(apps.database_uri, *(f"DELETE FROM waffle_{table}" for table in tables))  # noqa: S608
    here.change(3)
    for _ in range(2):  # also once it has reported that it has moved
        with pytest.raises(NotConverged, match="has revision 1 of another database"):
            here.waffle.wait(1, timeout=0.5)
    (missing,) = here.waffle.status().fleet.missing
    assert missing.reason == "has revision 1 of another database"
    there.state.refresh()
    assert proved(here).applied == 2


def test_a_writer_that_never_saw_the_hosts_passes_what_they_have_seen(
    apps: Apps, site: Site, redis_server: RedisServer
) -> None:
    """The floor of a new revision comes from every host's report."""
    site.here.change(2)
    saved = backup(apps)
    for size in (3, 4, 5):
        site.here.change(size)
    assert proved(site.here).revision == 4
    restore(apps, saved)
    box = Host(apps, "box", redis_server, listens=False)
    assert box.waffle.update({"SIZE": 9}).revision == 5
    fleet = proved(site.here)
    assert (fleet.revision, fleet.applied) == (5, 2)
    assert (site.here.size, site.there.size) == (9, 9)


# -- two databases on one Redis -------------------------------------------------------------------


def test_hosts_of_another_database_are_never_waited_for(
    apps: Apps, site: Site, redis_server: RedisServer
) -> None:
    """With the default channel and namespace, as two applications on a developer's machine have."""
    other_apps = Apps(apps.directory / "other", f"sqlite:///{apps.directory}/other.db")
    other = Host(other_apps, "other", redis_server)
    try:
        start(other)
        for size in range(2, 5):
            assert site.here.change(size)
            assert other.change(size + 10)
        assert (proved(site.here).applied, proved(site.here).total) == (2, 2)
        assert (proved(other).applied, proved(other).total) == (1, 1)
        assert (site.there.size, other.size) == (4, 14)
        for host, lineage in ((site.here, other), (other, site.here)):
            status = host.waffle.status()
            assert status.other_lineages == (lineage.position.lineage,)
            assert sum("Another database is announced here" in p for p in status.problems) == 1
            assert "other-database" in codes(host)
        # A listener of the site may have announced one again, where the machine is busy.
        wait_until(lambda: other.state.host.ignored_count >= 3, SOON_SECONDS, "all are counted")
    finally:
        other_apps.close()
