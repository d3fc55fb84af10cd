"""What hosts report to each other: how long it counts, for which databases, at what cost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import redis

from tests.bus.conftest import (
    DETAILS,
    HIGHEST,
    HOSTS,
    KEY,
    LINEAGE,
    LINEAGES,
    OTHER_ID,
    OTHER_KEY,
    OTHER_LINEAGE,
    POSITION,
    acknowledged,
    commands,
    entry_of,
    host_at,
    ids,
    process_at,
    refusing,
    reports_at,
)
from tests.support import RedisServer
from tests.support.waiting import SOON_SECONDS
from uwsgi_waffle.bus import reports
from uwsgi_waffle.bus.reports import HostReports
from uwsgi_waffle.sql.hosts import FORGET_SECONDS
from uwsgi_waffle.values.position import NOWHERE, Position


def test_a_report_comes_back_in_summary_and_in_full(ours: HostReports) -> None:
    processes = process_at(), process_at(pid=101), refusing(pid=102)
    host = host_at(served=2, exceptions=processes[2:], processes=processes, fault="it rains")
    ours.put(host)
    for in_full, expected in ((False, replace(host, processes=())), (True, host)):
        found = ours.read(LINEAGE, in_full=in_full)
        assert (found.ignored, found.other_lineages) == (0, ())
        (one,) = found.hosts
        assert 0 <= one.reported_seconds_ago < SOON_SECONDS
        assert not one.is_silent
        assert replace(one, reported_at=0.0, reported_seconds_ago=0.0) == expected


def test_a_summary_names_few_processes_and_counts_the_rest(ours: HostReports) -> None:
    exceptions = tuple(process_at(NOWHERE, pid) for pid in range(100, 120))
    ours.put(host_at(following=20, served=0, exceptions=exceptions))
    (found,) = ours.read(LINEAGE).hosts
    assert (found.following, found.served) == (20, 0)
    assert found.exceptions == exceptions[: reports.MAX_EXCEPTIONS]


def test_1024_processes_that_all_refuse_a_value_are_reported(ours: HostReports) -> None:
    processes = tuple(refusing(pid=pid) for pid in range(1024))
    ours.put(host_at(following=1024, served=0, exceptions=processes, processes=processes))
    found = ours.read(LINEAGE, in_full=True)
    assert found.ignored == 0
    assert found.hosts[0].processes == processes


def test_hosts_are_in_order_of_their_names(ours: HostReports) -> None:
    for number, name in enumerate(("b", "c", "a")):
        ours.put(host_at(host_id=f"{number}" * 16, name=name))
    assert [host.name for host in ours.read(LINEAGE).hosts] == ["a", "b", "c"]


def test_a_host_without_a_position_or_a_key_reports_nothing(
    redis_server: RedisServer, client: redis.Redis, ours: HostReports
) -> None:
    ours.put(host_at(NOWHERE))
    reports_at(redis_server.url, signing=lambda _lineage: ()).put(host_at())
    assert client.keys() == []


def test_a_retired_host_is_gone(client: redis.Redis, ours: HostReports) -> None:
    ours.put(host_at())
    ours.put(host_at(host_id=OTHER_ID))
    ours.retire("a" * 16, LINEAGE)
    assert (
        ids(ours.read(LINEAGE).hosts) == ids(ours.read(LINEAGE, in_full=True).hosts) == [OTHER_ID]
    )
    assert client.hkeys(DETAILS) == [OTHER_ID.encode()]


@pytest.mark.parametrize(
    ("age", "is_silent"), [(0.0, False), (3.0, False), (5.0, True), (290.0, True), (-5.0, True)]
)
def test_a_host_that_has_not_reported_lately_is_silent(
    client: redis.Redis, ours: HostReports, age: float, *, is_silent: bool
) -> None:
    """One from the future, too: Redis's clock was set back, and the host may be gone."""
    client.hset(HOSTS, "a" * 16, entry_of(host_at(), client, age=age))
    (found,) = ours.read(LINEAGE).hosts
    assert found.is_silent == is_silent
    assert abs(found.reported_seconds_ago - abs(age)) < 1.0


def test_hosts_that_have_been_silent_for_long_are_forgotten_at_once(
    client: redis.Redis, ours: HostReports
) -> None:
    ours.put(host_at(host_id=OTHER_ID))
    for number in range(50):
        host = host_at(host_id=f"{number:016}")
        client.hset(HOSTS, host.id, entry_of(host, client, age=FORGET_SECONDS + 1))
    before = commands(client)
    found = ours.read(LINEAGE)
    assert commands(client) - before < 15
    assert (ids(found.hosts), found.ignored) == ([OTHER_ID], 0)
    assert client.hkeys(HOSTS) == [OTHER_ID.encode()]


def test_redis_is_asked_for_its_time_in_the_same_round_trip(
    ours: HostReports, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for the first report, whose entries need the time already."""
    executed = []
    execute = redis.connection.Connection.send_packed_command

    def noted(connection: Any, command: Any, **options: Any) -> None:
        executed.append(command)
        execute(connection, command, **options)  # type: ignore[no-untyped-call]

    ours.put(host_at())
    monkeypatch.setattr(redis.connection.Connection, "send_packed_command", noted)
    for _ in range(10):
        ours.put(host_at())
        ours.read(LINEAGE)
    assert len(executed) == 10 * (1 + 2 + 1)  # a report; sizes, what is read
    stats: Any = client.info("commandstats")
    assert stats["cmdstat_time"]["calls"] == 2 + 20


def test_a_clock_that_was_set_is_followed_with_the_next_report(ours: HostReports) -> None:
    ours.put(host_at())
    ours._ahead_seconds += 100.0  # noqa: SLF001  # another server took over, say
    ours.put(host_at())
    assert ours.read(LINEAGE).hosts[0].is_silent
    ours.put(host_at())
    assert not ours.read(LINEAGE).hosts[0].is_silent


def test_the_highest_position_of_a_lineage_is_kept(ours: HostReports, client: redis.Redis) -> None:
    assert ours.highest(LINEAGE) == NOWHERE
    positions = [Position(LINEAGE, revision, f"{revision:016x}") for revision in range(1, 21)]
    for position in [*positions[10:], *positions[:10]]:
        ours.put(host_at(position))
    ours.put(host_at(Position(OTHER_LINEAGE, 99, "f" * 16)))
    assert ours.highest(LINEAGE) == positions[-1]
    assert client.zcard(HIGHEST) == 8
    ours.retire("a" * 16, LINEAGE)
    assert ours.highest(LINEAGE) == positions[-1], "also where the host that was there is gone"


def test_hosts_of_two_databases_do_not_see_each_other(redis_server: RedisServer) -> None:
    ours = reports_at(redis_server.url)
    theirs = reports_at(redis_server.url, signing=lambda _lineage: (OTHER_KEY,))
    ours.put(host_at())
    theirs.put(host_at(Position(OTHER_LINEAGE, 3, "c" * 16), OTHER_ID))
    for reader, lineage, host_id, other in (
        (ours, LINEAGE, "a" * 16, OTHER_LINEAGE),
        (theirs, OTHER_LINEAGE, OTHER_ID, LINEAGE),
    ):
        found = reader.read(lineage)
        assert (ids(found.hosts), found.ignored, found.other_lineages) == ([host_id], 0, (other,))


def test_a_host_that_has_moved_from_one_database_to_another_is_found_once(
    redis_server: RedisServer, client: redis.Redis
) -> None:
    keys = {LINEAGE: [KEY], OTHER_LINEAGE: [OTHER_KEY]}
    ours = reports_at(redis_server.url, signing=keys.__getitem__)
    moved, left_behind = host_at(), host_at(host_id=OTHER_ID)
    for host in (moved, left_behind):
        client.hset(HOSTS, host.id, entry_of(host, client, age=5.0))
    after = Position(OTHER_LINEAGE, 1, "c" * 16)
    ours.put(replace(moved, position=after))
    found = ours.read(OTHER_LINEAGE, before=[LINEAGE])
    assert [(h.id, h.position, h.is_silent) for h in found.hosts] == [
        (moved.id, after, False),
        (left_behind.id, POSITION, True),
    ]
    assert found.other_lineages == ()


@pytest.mark.parametrize("back_seconds", [0.0, -0.2], ids=["", "its clock was behind"])
def test_a_host_is_where_it_reported_last_also_for_a_database_that_it_has_left(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, back_seconds: float
) -> None:
    """As after a restored backup: what it reported a moment before it left proves nothing."""
    keys = {LINEAGE: [KEY], OTHER_LINEAGE: [OTHER_KEY]}
    ours = reports_at(redis_server.url, signing=keys.__getitem__)
    ours.put(host_at())
    after = Position(OTHER_LINEAGE, 1, "c" * 16)
    now = ours._redis_seconds()  # noqa: SLF001  # the clock of the reports
    monkeypatch.setattr(ours, "_redis_seconds", lambda: now + back_seconds)
    ours.put(replace(host_at(), position=after), left=[LINEAGE])
    for lineage, other in ((LINEAGE, OTHER_LINEAGE), (OTHER_LINEAGE, LINEAGE)):
        for in_full in (False, True):
            found = ours.read(lineage, before=[other], in_full=in_full)
            assert [host.position for host in found.hosts] == [after]


def test_other_databases_are_those_that_reported_lately(
    client: redis.Redis, ours: HostReports
) -> None:
    ours.put(host_at())
    now = float(client.time()[0])
    client.zadd(
        LINEAGES,
        {
            "c" * 16: now,
            "d" * 16: now - 5,
            "e" * 16: float("inf"),
            "f" * 15: now,
            "\x1b]52;c;AAAA\x07..": now,
            "C" * 16: now,
        },
    )
    assert ours.read(LINEAGE).other_lineages == ("c" * 16,)
    ours.put(host_at())
    client.zadd(LINEAGES, {"d" * 16: now - FORGET_SECONDS - 5})
    ours.put(host_at())
    assert b"d" * 16 not in client.zrange(LINEAGES, 0, -1)


def test_a_report_is_published_as_well(ours: HostReports, client: redis.Redis) -> None:
    with acknowledged(ours, client) as next_ids:
        ours.put(host_at())
        assert next_ids() == ["a" * 16]
