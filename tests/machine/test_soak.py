"""Some seconds of the soak, in every run; `make soak MINUTES=60` is the whole."""

from __future__ import annotations

import os
import time

import pytest

from tests.machine.ledger import WRONGS, Ledger
from tests.machine.soak import Soak
from tests.machine.world import World
from tests.support.programs import Program
from tests.support.soak import times

SECONDS = times(8, 300)


@pytest.mark.timeout(SECONDS + 300)
def test_nothing_is_lost_stale_mixed_or_proven_falsely() -> None:
    with World() as world:
        soak = Soak(world, seed=1)
        soak.run(SECONDS)
        print(soak.table())  # noqa: T201  pytest shows it with a failure
        assert world.ledger.is_right, world.ledger.findings
    counts = world.ledger.counts
    assert counts["updates"]
    assert counts["reads"]
    assert counts["proofs"]
    assert soak.rounds > 1


# -- the record itself: each wrong is found -------------------------------------------------------


@pytest.fixture
def ledger() -> Ledger:
    """Give a record with one update, to revision 1, on the host `here`."""
    made = Ledger()
    for host in ("here", "there"):
        made.host_is_up(host)
    made.made("here", made.attempt(), 1)
    return made


def answer(
    revision: int, value: int, again: int | None = None, pid: int = 7, listed_at: float = 0.0
) -> dict[str, object]:
    values = {"S000": value, "S001": value}
    return {
        "pid": pid,
        "listed_at": listed_at,
        "revision": revision,
        "values": values,
        "again": {**values, "S001": value if again is None else again},
    }


def found(ledger: Ledger) -> dict[str, int]:
    return {kind: ledger.counts[kind] for kind in WRONGS if ledger.counts[kind]}


def test_what_is_right_is_not_found(ledger: Ledger) -> None:
    ledger.saw("there", ledger.floor("there"), answer(0, 0))
    floor = ledger.floor("here")
    ledger.saw("here", floor, answer(1, 1))
    ledger.made("here", ledger.attempt(), 2)
    ledger.saw("here", floor, answer(1, 1))  # it had started before the update returned
    ledger.compare({1: 1, 2: 2})
    assert ledger.is_right, ledger.findings


def test_a_stale_answer_is_found(ledger: Ledger) -> None:
    ledger.saw("here", ledger.floor("here"), answer(0, 0))
    assert found(ledger) == {"stale": 1}


def test_a_process_that_goes_back_is_found(ledger: Ledger) -> None:
    ledger.saw("there", ledger.floor("there"), answer(1, 1))
    ledger.saw("there", ledger.floor("there"), answer(0, 0, pid=8))
    assert ledger.is_right
    ledger.saw("there", ledger.floor("there"), answer(0, 0))
    assert found(ledger) == {"backwards": 1}


def test_a_mixed_answer_is_found(ledger: Ledger) -> None:
    ledger.saw("there", ledger.floor("there"), answer(1, 1, again=2))
    ledger.saw("there", ledger.floor("there"), answer(0, 1))
    ledger.compare({1: 1})
    assert found(ledger)["mixed"] >= 2


def test_what_is_lost_or_made_in_spite_of_a_refusal_is_found(ledger: Ledger) -> None:
    refused = ledger.attempt()
    ledger.refused(refused)
    ledger.compare({2: refused})
    assert found(ledger) == {"lost": 1, "made after refusal": 1}


def test_a_false_yes_is_found(ledger: Ledger) -> None:
    pid = os.getpid()  # that of a process which lives by then
    ledger.stopped(7)
    ledger.made("here", ledger.attempt(), 2)
    ledger.proven("here", 2, began_at=float("inf"), fleet="all")
    ledger.continues(7)
    ledger.saw("there", ledger.floor("there"), answer(1, 1, pid=pid))
    assert found(ledger) == {"false yes": 2}


def test_a_process_that_began_after_a_proof_is_no_false_yes(ledger: Ledger) -> None:
    ledger.made("here", ledger.attempt(), 2)
    ledger.proven("here", 2, began_at=float("inf"), fleet="all")
    time.sleep(0.05)  # the kernel dates processes by its ticks
    with Program("input()") as newcomer:
        ledger.saw("there", ledger.floor("there"), answer(1, 1, pid=newcomer.pid))
    assert ledger.is_right, ledger.findings
    assert ledger.counts["newcomers behind a proof"] == 1


@pytest.mark.parametrize("sql", ["was never away", "is away", "is back"])
def test_a_process_that_is_listed_after_a_proof_without_sql_is_no_false_yes(
    ledger: Ledger, sql: str
) -> None:
    """No process could know of it, as its host could not tell; with SQL it is one."""
    ledger.made("here", ledger.attempt(), 2)
    ledger.proven("here", 2, began_at=float("inf"), fleet="all")
    ledger.sql_is_back("there")
    if sql != "was never away":
        ledger.sql_may_be_away("there")
    if sql == "is back":
        ledger.sql_is_back("there")
    is_right = sql == "is away"
    now, floor = time.clock_gettime(time.CLOCK_BOOTTIME), ledger.floor("there")
    if not is_right:
        ledger.sql_is_back("there")  # each round says so at its end
    ledger.saw("there", floor, answer(1, 1, pid=os.getpid(), listed_at=now))
    assert found(ledger) == ({} if is_right else {"false yes": 1})
    ledger.saw("there", floor, answer(1, 1, pid=os.getpid()))
    assert ledger.counts["false yes"] == 2 - is_right, "it was listed before"
