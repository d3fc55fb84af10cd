"""The proof under random histories: it says yes only where every process serves SQL's state.

Each history mixes writes, two releases, backups that are restored (or replicas that lag and take
over, which is the same to a host), new databases, a Redis that has lost everything, stopped and
killed processes, children that run other programs, and forged reports. Whenever `wait` and `status`
are asked, their answers are held against what every process really serves.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.ops.forked import Process, Zygote
from tests.ops.histories import History
from tests.support import RedisServer, wait_until
from tests.support.soak import times
from tests.support.waiting import SOON_SECONDS

#: Histories in one test, so that a failure names a short range of seeds.
BATCH = 10
BATCHES = times(30, 1000)
STEPS = 6
#: Seconds that a process may take to prove a state; long enough where nothing stands in the way.
WAIT_SECONDS = 0.25


@pytest.fixture(scope="module")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    with contextlib.closing(Zygote(tmp_path_factory.mktemp("zygote"))) as program:
        yield program


class Checked(History):
    """A history whose answers are held against what every process serves."""

    def run(self) -> None:
        """Take the steps, check the proof after each of them, then heal and check it again."""
        for _ in range(STEPS):
            self.take_a_step()
            self.check()
        self.heal()

    def truth(self) -> tuple[str, int]:
        """Return the stamp and the size that SQL holds."""
        with contextlib.closing(sqlite3.connect(self.database, timeout=30)) as connection:
            stamp = connection.execute("SELECT lineage, stamp FROM waffle_namespace").fetchone()
            size = connection.execute("SELECT value FROM waffle_setting").fetchone()
        return (":".join(stamp) if stamp else ""), (int(size[0]) if size else 1)

    def check(self) -> None:
        """Ask one process for the proof, and hold it against what every process serves."""
        asked = self.random.choice(self.running())
        shown = asked.ask("status")
        self.log.append(f"status by {asked.pid}: {shown['fleet']}")
        if shown["yes"]:
            self.check_yes()
        answer = asked.ask("wait", seconds=WAIT_SECONDS)
        self.log.append(f"wait by {asked.pid}: {answer['fleet']}")
        if answer["yes"]:
            self.check_yes()
        elif not (self.wrong() or self.ghosts or any(p.is_stopped for p in self.processes)):
            # The reason may be gone by now; then the proof is there at once.
            self.expect_yes(asked)
        else:
            self.expect_true_reasons(asked, answer)

    def expect_true_reasons(self, asked: Process, answer: dict[str, Any]) -> None:
        """Fail where a no goes on naming a host or a process that stands in no proof's way."""

        def are_true() -> bool:
            if not answer["yes"] and self.names_only_what_is_wrong(answer["named"]):
                return True
            # The reasons may have been true when they were given.
            answer.update(asked.ask("wait", seconds=WAIT_SECONDS))
            return bool(answer["yes"])

        try:
            wait_until(are_true, SOON_SECONDS, "each reason is true")
        except AssertionError:
            if all(not process.is_stopped for process in self.processes):
                pytest.fail(f"a no for no reason: {answer}\n" + "\n".join(self.log))
            self.go_on()  # a process that was stopped may hold a lock that another host needs
            self.expect_true_reasons(asked, answer)
        if answer["yes"]:
            self.check_yes()

    def names_only_what_is_wrong(self, named: Sequence[Sequence[Any]]) -> bool:
        """Return whether each host and process that is named is stopped, gone or elsewhere."""
        wrong = {*self.wrong(), *(p.pid for p in self.processes if p.is_stopped)}
        hosts = {p.host_id for p in self.processes if p.pid in wrong} | {*self.ghosts.values()}
        hosts |= {"" for p in self.processes if p.is_stopped}  # it may hold a lock of the database
        return all((pid in wrong) if pid else (host in hosts) for host, pid in named)

    def wrong(self) -> dict[int, list[Any]]:
        """Return what those serve that do not serve SQL's state."""
        stamp, size = self.truth()
        served = {process.pid: process.serves() for process in self.running()}
        return {pid: found for pid, found in served.items() if found != [stamp, size, False]}

    def check_yes(self) -> None:
        """Fail unless every process serves SQL's state."""
        wrong = self.wrong()
        log = "\n".join(self.log)
        assert not wrong, f"a false yes: {wrong}, where SQL holds {self.truth()}\n{log}"

    def expect_yes(self, asked: Process) -> None:
        """Fail where a process cannot prove what every process serves."""
        answer: dict[str, Any] = {}

        def says_yes() -> bool:
            answer.update(asked.ask("wait", seconds=WAIT_SECONDS))
            stamp, size = self.truth()
            agree = all(p.serves() == [stamp, size, False] for p in self.running())
            return answer["yes"] or not agree

        try:
            wait_until(says_yes, SOON_SECONDS, "the proof")
        except AssertionError:
            pytest.fail(f"a false no: {answer}\n" + "\n".join(self.log))

    def heal(self) -> None:
        """End all faults; then every process serves SQL's state, and each of them can prove it."""
        self.go_on()
        asked = self.running()[0]
        self.expect_no_other_state(asked)
        asked.ask("resync")
        asked.ask("update", size=50)
        stamp, size = self.truth()
        for process in self.processes:
            wait_until(
                lambda p=process: p.serves() == [stamp, size, False],  # type: ignore[misc]
                SOON_SECONDS,
                f"{process} serves {stamp} {size}: {process.serves()}\n" + "\n".join(self.log),
            )
        self.log.append("healed")
        if self.ghosts:
            self.forget_ghosts()
        self.expect_yes(asked)

    def expect_no_other_state(self, asked: Process) -> None:
        """Fail where a process stays at another state than SQL's, unless it is ahead of SQL."""

        def have_moved() -> bool:
            found = asked.ask("wait", seconds=WAIT_SECONDS)["fleet"]
            return "another state" not in found and "another database" not in found

        log = "\n".join(self.log)
        if not self.ghosts:
            wait_until(have_moved, SOON_SECONDS, f"each process is at SQL's state, or ahead\n{log}")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("batch", range(BATCHES))
def test_the_proof_is_true(
    batch: int, tmp_path: Path, zygote: Zygote, redis_server: RedisServer
) -> None:
    def run(seed: int) -> None:
        directory = tmp_path / str(seed)
        directory.mkdir()
        with contextlib.closing(Checked(seed, directory, zygote, redis_server)) as history:
            try:
                history.run()
            except BaseException:
                print("\n".join([f"seed {seed}", *history.log]))  # noqa: T201  # pytest shows it
                raise

    # Histories wait more than they compute.
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, range(batch * BATCH, (batch + 1) * BATCH)))
