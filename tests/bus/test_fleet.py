"""Which processes count as serving a state, and how the others are named."""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from tests.bus.conftest import LINEAGE, OTHER_LINEAGE, POSITION, host_at, process_at, refusing
from uwsgi_waffle.bus.fleet import Fleet, HostStatus, Refusal, this_host
from uwsgi_waffle.bus.reports import MAX_EXCEPTIONS
from uwsgi_waffle.host.records import HostSnapshot
from uwsgi_waffle.values.position import NOWHERE, Position

BEFORE = Position(LINEAGE, 6, "0" * 15 + "6")
LATER = Position(LINEAGE, 8, "0" * 15 + "8")
OTHER_STAMP = replace(POSITION, stamp="f" * 16)
ELSEWHERE = replace(POSITION, lineage=OTHER_LINEAGE)
AHEAD = "has revision 8, ahead of SQL's 7: run `flask waffle resync` if the database is right"


def lagging(*positions: Position, at: Position = POSITION) -> HostStatus:
    """Return a host of three processes, of which some are at other positions than the host."""
    exceptions = tuple(process_at(p, 100 + n) for n, p in enumerate(positions))
    return host_at(at, served=3 - len(exceptions), exceptions=exceptions)


def test_a_fleet_of_which_each_process_serves_the_state_is_complete() -> None:
    fleet = Fleet(POSITION, (host_at(), host_at(host_id="b" * 16)), seconds=0.0125)
    assert (fleet.applied, fleet.total, fleet.missing, fleet.refused) == (6, 6, (), ())
    assert str(fleet) == "revision 7: 6 of 6 processes on 2 hosts in 12 ms"


NOT_SERVING: dict[str, tuple[HostStatus, int, str]] = {
    "the host is behind": (host_at(BEFORE), 0, "host web: has revision 6"),
    "the host has no position": (host_at(NOWHERE), 0, "host web: has no revision yet"),
    "the host is ahead of SQL": (
        host_at(LATER),
        0,
        f"host web: {AHEAD}",
    ),
    "another state of the same revision": (
        host_at(OTHER_STAMP),
        0,
        "host web: has revision 7, but another state of it than SQL's",
    ),
    "another database": (
        host_at(ELSEWHERE),
        0,
        "host web: has revision 7 of another database",
    ),
    "a process is behind": (lagging(BEFORE), 2, "worker 1 (pid 100) on web: has revision 6"),
    "a process has another state of the revision": (
        lagging(OTHER_STAMP),
        2,
        "worker 1 (pid 100) on web: has revision 7, but another state of it than SQL's",
    ),
    "the host is silent": (
        host_at(is_silent=True, reported_seconds_ago=12.4),
        0,
        "host web: silent since ??:??:?? UTC (12 s)",
    ),
    "the host has a fault": (host_at(fault="it is on fire"), 0, "host web: it is on fire"),
    "a worker is not listed": (
        host_at(unlisted=1),
        3,
        "host web: 1 worker has not loaded the application",
    ),
    "several workers are not listed": (
        host_at(unlisted=2),
        3,
        "host web: 2 workers have not loaded the application",
    ),
}


@pytest.mark.parametrize(("host", "applied", "reason"), NOT_SERVING.values(), ids=NOT_SERVING)
def test_what_does_not_serve_the_state_is_named(
    host: HostStatus, applied: int, reason: str
) -> None:
    others = (host_at(host_id="b" * 16, name="other"),)
    fleet = Fleet(POSITION, (host, *others))
    (laggard,) = fleet.missing
    assert fnmatchcase(str(laggard), reason)  # the time of day is that of the test
    assert fleet.applied == 3 + applied < fleet.total
    assert fleet.refused == ()


def test_a_process_that_refuses_a_value_does_not_count() -> None:
    host = host_at(served=2, exceptions=(refusing(pid=4711),))
    fleet = Fleet(POSITION, (host,))
    assert (fleet.applied, fleet.total, fleet.missing) == (2, 3, ())
    assert fleet.refused == (Refusal("web", 4711, "SIZE", "it is too large", "default"),)
    assert str(fleet.refused[0]) == (
        "pid 4711 on web refuses SIZE (it is too large); it serves the default"
    )


def test_a_process_that_refuses_a_value_of_an_earlier_state_is_behind() -> None:
    fleet = Fleet(POSITION, (host_at(served=2, exceptions=(refusing(BEFORE),)),))
    assert fleet.refused == ()
    assert [str(m) for m in fleet.missing] == ["worker 1 (pid 100) on web: has revision 6"]


def test_later_states_count_where_they_are_known_to_be_sqls() -> None:
    hosts = (host_at(LATER), lagging(LATER))
    assert Fleet(POSITION, hosts, later=frozenset({LATER})).missing == ()
    assert Fleet(POSITION, hosts, later=frozenset({LATER})).applied == 6
    forked = replace(LATER, stamp="e" * 16)
    assert len(Fleet(POSITION, hosts, later=frozenset({forked})).missing) == 2


def test_processes_that_a_summary_does_not_name_are_missing_all_the_same() -> None:
    """Those that it names may serve the state while the rest do not."""
    named = tuple(process_at(POSITION, 100 + n) for n in range(MAX_EXCEPTIONS))
    host = host_at(LATER, following=20, served=2, exceptions=named)
    fleet = Fleet(POSITION, (host,), later=frozenset({LATER}))
    assert (fleet.applied, fleet.total) == (10, 20)
    assert [str(laggard) for laggard in fleet.missing] == [
        "host web: 10 more processes do not serve revision 8"
    ]


def test_what_is_unknown_keeps_a_fleet_from_being_complete() -> None:
    fleet = Fleet(POSITION, (host_at(),), unknown="Redis does not answer")
    assert [str(m) for m in fleet.missing] == ["host (any other): Redis does not answer"]


def test_hosts_of_one_name_are_distinguished_by_their_ids() -> None:
    one, other = host_at(BEFORE), host_at(host_id="b" * 16)
    alone = host_at(host_id="c" * 16, name="alone")
    fleet = Fleet(POSITION, (one, other, alone))
    labels = [fleet.label(host) for host in fleet.hosts]
    assert labels == ["web#aaaaaa", "web#bbbbbb", "alone"]
    assert [laggard.host for laggard in fleet.missing] == ["web#aaaaaa"]


def test_the_cost_of_a_look_grows_with_the_number_of_hosts_alone() -> None:
    """`wait` looks every few milliseconds, whatever their number."""
    compared = [0]

    class Name(str):
        __slots__ = ()
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            compared[0] += 1
            return str.__eq__(self, other)

        def __ne__(self, other: object) -> bool:
            return not self == other

    count = 500
    hosts = tuple(
        host_at(BEFORE, f"{number:016}", name=Name(f"web{number}")) for number in range(count)
    )
    fleet = Fleet(POSITION, hosts)
    assert [laggard.host for laggard in fleet.missing] == [host.name for host in hosts]
    assert compared[0] <= 5 * count


def test_processes_of_a_host_are_in_the_order_of_their_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers first; slots are in the order in which processes came."""
    host = HostSnapshot(tmp_path / "snapshot")
    came = [
        process_at(pid=103, role="mule", worker=1),
        *(process_at(pid=110 - number, worker=number) for number in (10, 2, 1)),
    ]
    monkeypatch.setattr(host.slots, "living", lambda: came)
    shown = [(p.role, p.worker) for p in this_host(host, "web", 15.0).processes]
    assert shown == [("worker", 1), ("worker", 2), ("worker", 10), ("mule", 1)]
