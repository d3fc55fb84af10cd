"""Histories that Hypothesis chooses, over real servers; it prints a failing one as a script.

To replay it, put its lines below ``with World(...)`` as :func:`replay` does.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from tests.machine.faults import FAULTS, Faults
from tests.machine.hosts import Host
from tests.machine.world import World
from tests.support.soak import is_soak, times

#: So that a cut costs a history little time.
REQUEST_SECONDS = 1.0
WAIT_SECONDS = 1.0

BY_NAME = {str(fault): fault for fault in FAULTS}
HOSTS = st.sampled_from(["mule", "elected", "gunicorn"])

EFFORT = settings(
    max_examples=times(4, 300),
    stateful_step_count=times(8, 30),
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


class Machine(RuleBasedStateMachine):
    """One history. The world goes on, so that each history finds what the last one left."""

    world: ClassVar[World]

    def __init__(self) -> None:
        super().__init__()
        self.faults = Faults(self.world)
        self.known = len(self.world.ledger.findings)

    def host(self, name: str) -> Host:
        return self.world.host(name)

    @rule(fault=st.sampled_from(sorted(BY_NAME)), host=HOSTS)
    def begin(self, fault: str, host: str) -> None:
        if BY_NAME[fault].can_happen_to(self.host(host)):
            self.faults.begin(BY_NAME[fault], self.host(host))

    @rule(host=HOSTS)
    def update(self, host: str) -> None:
        self.host(host).update()

    @rule(host=HOSTS)
    def update_by_writer(self, host: str) -> None:
        self.host(host).update_by_writer()

    @rule(host=HOSTS)
    def prove(self, host: str) -> None:
        self.host(host).wait(self.world.ledger.latest, WAIT_SECONDS)

    @rule()
    def read(self) -> None:
        for host in self.world.hosts:
            host.read()

    @rule()
    def heal(self) -> None:
        self.faults.heal()
        self.world.check_healed()

    @invariant()
    def is_right(self) -> None:
        wrong = self.world.ledger.findings[self.known :]
        assert not wrong, wrong

    def teardown(self) -> None:
        self.heal()
        self.world.check_proof()
        self.world.ledger.compare(self.world.history())
        self.is_right()


def replay(script: str, machine: type[Machine]) -> None:
    """Run a history that Hypothesis has printed."""
    lines = [line for line in textwrap.dedent(script).splitlines() if line.startswith("state")]
    exec("\n".join(lines), {machine.__name__: machine})  # noqa: S102  what Hypothesis has printed


@pytest.fixture(scope="module", autouse=True)
def _world() -> Iterator[None]:
    with World(request_seconds=REQUEST_SECONDS) as world:
        Machine.world = world
        for host in world.hosts:
            host.update_by_writer()  # so that it runs
        yield


@pytest.mark.timeout(4 * 3600)
def test_every_history_ends_well() -> None:
    run_state_machine_as_test(Machine, settings=EFFORT)


class Planted(Machine):
    """A machine with a defect: what is updated after a reset is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.was_reset = False

    @rule(host=HOSTS)
    def reset(self, host: str) -> None:
        self.begin("reset redis", host)
        self.was_reset = True

    @rule(host=HOSTS)
    def lose(self, host: str) -> None:
        self.update(host)
        assert not self.was_reset, "an update is lost"

    def teardown(self) -> None:
        self.faults.heal()  # no more, as shrinking takes hundreds of histories


@pytest.mark.skipif(not is_soak(), reason="takes minutes; only in a soak")
@pytest.mark.timeout(3600)
def test_a_failure_shrinks_to_a_script_that_replays() -> None:
    with pytest.raises(AssertionError, match="an update is lost") as failure:
        run_state_machine_as_test(
            Planted, settings=settings(EFFORT, max_examples=50, stateful_step_count=10)
        )
    notes: list[Any] = getattr(failure.value, "__notes__", [])
    script = "\n".join(map(str, notes))
    steps = [line for line in script.splitlines() if "(host=" in line]
    assert ["reset" in steps[0], "lose" in steps[1], len(steps)] == [True, True, 2], script
    with pytest.raises(AssertionError, match="an update is lost"):
        replay(script, Planted)
