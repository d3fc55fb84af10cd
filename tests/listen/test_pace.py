"""Hosts of a large fleet do not all ask SQL at once; those of a small one ask without delay."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.conftest import Apps
from tests.listen.virtual_fleet import STEP_SECONDS, TURN_SECONDS, VirtualFleet
from tests.support import RedisServer, wait_until
from tests.support.listening import Host
from tests.support.statements import Statements
from tests.support.waiting import SOON_SECONDS
from uwsgi_waffle.bus.client import BusUnavailable
from uwsgi_waffle.host import layout
from uwsgi_waffle.listen import listener, pace, reconcile, reporter, telling
from uwsgi_waffle.listen.pace import Pace
from uwsgi_waffle.listen.reporter import Reporter

#: The most questions to SQL in any second, and the seconds until every host is right.
MOST_A_SECOND, MOST_SECONDS = 50, 10.0
LARGE = 1_000
TOO_LARGE = "x" * 5_000


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Have listeners go by the time of a fleet."""
    fleet: dict[str, VirtualFleet] = {}
    virtual = SimpleNamespace(monotonic=lambda: fleet["now"].now if fleet else 1000.0)
    for module in (listener, telling, reconcile):
        monkeypatch.setattr(module, "time", virtual)
    monkeypatch.setattr(listener.logger, "disabled", True)  # a line of each host
    init = VirtualFleet._listener  # noqa: SLF001  # the first thing that it does with itself

    def noted(self: VirtualFleet, *arguments: Any) -> Any:
        fleet["now"] = self
        return init(self, *arguments)

    monkeypatch.setattr(VirtualFleet, "_listener", noted)
    return fleet


@pytest.mark.usefixtures("clock")
def test_after_a_restart_of_redis_a_large_fleet_asks_seldom_and_is_right_soon() -> None:
    """Though a change was committed meanwhile, and announced to no host."""
    fleet = VirtualFleet(LARGE)
    fleet.lose_redis()
    fleet.run(0.4)
    fleet.commit(SIZE="2")
    fleet.run(0.4)
    fleet.is_up = True
    assert fleet.seconds_until_right(MOST_SECONDS) < MOST_SECONDS
    fleet.run(4.0)
    assert fleet.peak() <= MOST_A_SECOND


@pytest.mark.usefixtures("clock")
def test_a_large_fleet_at_rest_asks_seldom() -> None:
    fleet = VirtualFleet(LARGE)
    fleet.run(10.0)
    assert fleet.peak() <= MOST_A_SECOND
    assert fleet.asked


@pytest.mark.usefixtures("clock")
def test_what_was_announced_to_no_host_the_first_poll_finds_for_all() -> None:
    fleet = VirtualFleet(LARGE)
    fleet.commit(SIZE="2")
    assert fleet.seconds_until_right(2.0) < 2.0
    assert fleet.peak() <= MOST_A_SECOND


@pytest.mark.usefixtures("clock")
def test_after_a_gap_a_few_hosts_read_for_all() -> None:
    fleet = VirtualFleet(LARGE)
    fleet.commit(SIZE="2")  # whose message is lost
    delta = fleet.commit(SIZE="3")
    fleet.announce(delta.position, delta)
    fleet.seconds_until_right(2.0)
    assert fleet.peak() <= MOST_A_SECOND


@pytest.mark.usefixtures("clock")
def test_a_change_that_comes_before_the_one_before_it_costs_no_read() -> None:
    fleet = VirtualFleet(200)
    first, second, third = (fleet.commit(SIZE=size) for size in "234")
    for delta in (third, second, first):
        fleet.announce(delta.position, delta)
    fleet.run(STEP_SECONDS)
    assert not fleet.behind()


@pytest.mark.usefixtures("clock")
def test_what_has_no_room_in_a_message_is_read_by_all_within_seconds() -> None:
    fleet = VirtualFleet(400)
    delta = fleet.commit(LARGE=TOO_LARGE)
    fleet.announce(delta.position, delta)
    assert fleet.seconds_until_right(MOST_SECONDS) < MOST_SECONDS
    assert len(fleet.asked) < 1.5 * len(fleet.hosts)
    assert fleet.peak() < len(fleet.hosts) / 2, "and not all at once"


@pytest.mark.usefixtures("clock")
def test_without_redis_each_host_of_a_large_fleet_is_right_within_one_poll() -> None:
    fleet = VirtualFleet(LARGE, poll_seconds=5.0)
    fleet.lose_redis()
    fleet.commit(SIZE="2")
    assert fleet.seconds_until_right(6.0) <= 5.0 + 2 * TURN_SECONDS


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("count", [1, 3, pace.SMALL_FLEET])
def test_a_small_fleet_reads_at_once(count: int) -> None:
    fleet = VirtualFleet(count, poll_seconds=3600.0)
    delta = fleet.commit(LARGE=TOO_LARGE)
    fleet.announce(delta.position, delta)
    fleet.run(STEP_SECONDS)
    assert not fleet.behind()
    fleet.lose_redis()
    fleet.commit(SIZE="2")
    fleet.run(0.2)
    fleet.is_up = True
    assert fleet.seconds_until_right(3.0) <= 2.0 + 2 * TURN_SECONDS, "as soon as it is connected"


@pytest.mark.usefixtures("clock")
def test_a_redis_that_comes_and_goes_does_not_put_a_poll_off() -> None:
    count = 200
    fleet = VirtualFleet(count, poll_seconds=5.0)
    for _ in range(6):
        fleet.lose_redis()
        fleet.run(1.0)
        fleet.is_up = True
        fleet.run(1.0)
    assert len(fleet.asked) >= count


def test_waits_grow_with_the_fleet_up_to_a_limit() -> None:
    found = Pace(5.0, uniform=lambda _least, most: most)
    assert (found.until_comparison(), found.until_read(), found.until_poll(is_live=True)) == (
        *(0.0, 0.0, 5.0),
    )
    assert found.holds_connection
    found.hosts = 1_000
    assert 80 < found.until_comparison() < 85
    assert found.until_read() == pace.MOST_READ_SECONDS
    assert 80 < found.until_poll(is_live=True) < 85
    assert found.until_poll(is_live=False) == 5.0
    assert not found.holds_connection
    found.hosts = 1_000_000
    assert found.until_poll(is_live=True) == pace.MOST_POLL_SECONDS
    assert Pace(600.0, uniform=lambda _least, most: most).until_poll(is_live=True) == 600.0


def test_the_hosts_are_counted_and_connections_given_back_where_they_are_many(
    apps: Apps, redis_server: RedisServer, writer: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For real: registered in SQL, and a read that no change in the message spares."""
    monkeypatch.setattr(pace, "HELD_CONNECTIONS", 3)
    registry = writer.state.registry
    for number in range(4):
        registry.register(f"{number:016x}", f"web{number}")
    here = Host(apps, "here", redis_server)
    here.listen(redis_server)
    counted = here.state._reporter.pace  # noqa: SLF001  # what it found out
    wait_until(lambda: counted.hosts == 5, SOON_SECONDS, "all hosts are counted")
    here.wait_until_at(writer.commit_and_announce())
    here.wait_for_turns()
    held: Any = here.state.store.database.engine.pool
    assert held.checkedin() + held.checkedout() == 0


def test_a_small_fleet_keeps_its_connections(here: Host, statements: Statements) -> None:
    here.wait_for_turns()
    statements.clear()
    held: Any = here.state.store.database.engine.pool
    assert held.checkedin() == 1


@pytest.mark.parametrize("hosts", [1, LARGE])
def test_many_hosts_that_cannot_report_do_not_all_note_that_in_sql_at_once(
    apps: Apps, monkeypatch: pytest.MonkeyPatch, hosts: int
) -> None:
    """They have lost one Redis, each at the same moment."""
    state = Host(apps, "here", listens=False).state
    state.host.register("process")
    noted: list[str] = []
    registry: Any = SimpleNamespace(
        register=lambda _id, _name, reason: noted.append(reason),
        count=lambda: hosts,
        release=lambda: None,
    )
    now = [1000.0]
    monkeypatch.setattr(reporter, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def refuse(*_: object, **__: object) -> None:
        message = "away"
        raise BusUnavailable(message)

    monkeypatch.setattr(state.reports, "put", refuse)
    made = Reporter(state.config, state.host, state.reports, registry, "")
    made.pace = Pace(5.0, uniform=lambda _least, most: most)
    deaf: Any = SimpleNamespace(is_live=False, error="away")
    seconds = 0
    while "away" not in noted:
        now[0] += 1.0
        seconds += 1
        state.host.words[layout.REPORTED_WORD] = 0
        made.report_if_due(deaf)
        assert seconds < 300, "it is noted at last"
    assert (seconds > 60) == (hosts == LARGE)
