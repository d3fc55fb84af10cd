"""Three hosts with a network of their own, whose cables are cut: both ways, and one way."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.machine.namespaces import WorldOfNamespaces
from tests.machine.proxy import Way
from tests.support import wait_until
from tests.support.soak import is_soak, times
from tests.support.waiting import SOON_SECONDS

#: How long a cable is cut: in a soak longer than any connection is trusted.
CUT_SECONDS = 40.0 if is_soak() else 1.5


@pytest.fixture(scope="module")
def world() -> Iterator[WorldOfNamespaces]:
    with WorldOfNamespaces(request_seconds=3.0) as made:
        for host in made.hosts:
            host.update_by_writer()  # so that it runs
        yield made


@pytest.mark.timeout(900)
@pytest.mark.parametrize("ways", [(), ("there",), ("back",)], ids=["both", "there", "back"])
def test_a_host_that_is_cut_off_is_not_proven_and_follows_once_it_is_back(
    world: WorldOfNamespaces, ways: tuple[Way, ...]
) -> None:
    first, cut_off = world.hosts[0], world.hosts[2]
    for _ in range(times(1, 5)):
        world.check_healed()
        before = world.revision()
        world.cable(cut_off.name).cut(*ways)
        until = time.monotonic() + CUT_SECONDS
        while True:
            made = first.update()
            assert made is not None
            assert made > before
            assert first.wait(made, 0.3) is False
            answer = cut_off.read()
            assert answer is not None, "a host that is cut off still serves"
            # What changed may have come with a message, where no report comes back.
            latest = made if ways == ("there",) else before
            assert before <= answer["revision"] <= latest
            if time.monotonic() > until:
                break
        world.cable(cut_off.name).heal()
        world.check_healed()
        world.check_proof()
        assert world.ledger.is_right, world.ledger.findings


def test_a_host_that_is_cut_off_makes_no_update(world: WorldOfNamespaces) -> None:
    """It raises, or its client gives up; in both cases SQL decides, and all hosts agree."""
    first, cut_off = world.hosts[0], world.hosts[2]
    world.check_healed()
    before = world.revision()
    world.cable(cut_off.name).cut()
    assert cut_off.update() is None
    assert first.update() == before + 1
    world.cable(cut_off.name).heal()
    wait_until(lambda: cut_off.update() is not None, SOON_SECONDS, "it can be written to again")
    world.check_healed()
    world.check_proof()
    world.ledger.compare(world.history())
    assert world.ledger.is_right, world.ledger.findings
