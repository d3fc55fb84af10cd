"""Everything at once for some minutes, and one table at the end.

    python -m tests.machine.soak --minutes 60
    python -m tests.machine.soak --minutes 5 --only "restart SQL" --only "delete snapshot"

Readers and writers work on each host without a pause. Round after round some faults begin, last a
moment together, and end; then each process must serve SQL's revision within one poll. The exit
status is 1 if anything was wrong, and each of those is printed with the faults of its round.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.machine.faults import FAULTS, Fault, Faults
from tests.machine.hosts import Host
from tests.machine.ledger import WRONGS
from tests.machine.namespaces import WorldWithCable
from tests.machine.world import World
from tests.support.databases import SERVERS

__all__ = ["Soak", "main"]

#: Most faults of one round.
MOST_FAULTS = 3
#: How long the faults of a round last together, in seconds.
LASTS_SECONDS = (0.5, 4.0)
#: Longest pause of a reader or a writer, in seconds.
READER_PAUSE_SECONDS = 0.1
WRITER_PAUSE_SECONDS = 0.4
#: How long a request is held at most, in seconds.
HOLD_SECONDS = 0.05
#: How many of the updates are by a writer that is killed between two of its steps.
CRASHES = 0.05
#: Most steps after which it is killed: more than an update takes.
STEPS = 1500

#: Kind of process -> how many there are, and the most memory and descriptors that one has.
Usage = dict[str, tuple[int, int, int]]


class Soak:
    """One run."""

    def __init__(
        self,
        world: World,
        seed: int,
        say: Callable[[str], None] = print,
        faults: Sequence[Fault] = FAULTS,
    ) -> None:
        """Run nothing yet.

        :param seed: chooses faults, in which order, and how long they last
        :param faults: from which it chooses
        """
        self.world = world
        self.ledger = world.ledger
        self.rounds = 0
        self.seconds = 0.0
        self._say = say
        self._faults = faults
        self._random = random.Random(seed)  # noqa: S311  a run must be repeatable
        self._ends = threading.Event()
        self.usage: list[Usage] = []

    def run(self, seconds: float) -> None:
        """Run for so long."""
        for host in self.world.hosts:
            host.update_by_writer()  # so that it runs
        began_at = time.monotonic()
        workers = [*self._each(self._read), *self._each(self._write)]
        with ThreadPoolExecutor(len(workers)) as pool:
            running = [pool.submit(worker) for worker in workers]
            try:
                self._round(())  # so that every process has served something
                self.usage.append(usage(self.world))
                while time.monotonic() - began_at < seconds:
                    count = self._random.randint(1, MOST_FAULTS)
                    self._round(self._random.choices(self._faults, k=count))
                    for done in [work for work in running if work.done()]:
                        done.result()
                self.usage.append(usage(self.world))
            finally:
                self._ends.set()
            for work in running:
                work.result()
        self.world.check_healed()
        self.world.check_proof()
        self.ledger.compare(self.world.history())
        self.seconds = time.monotonic() - began_at

    def _round(self, chosen: Sequence[object]) -> None:
        """Begin faults, let them last, end them, and check that everything agrees."""
        self.rounds += 1
        known = len(self.ledger.findings)
        faults = Faults(self.world)
        lasts_seconds = self._random.uniform(*LASTS_SECONDS)
        try:
            for fault in FAULTS:
                if fault in chosen:
                    able = [host for host in self.world.hosts if fault.can_happen_to(host)]
                    faults.begin(fault, self._random.choice(able))
                    self._ends.wait(lasts_seconds / MOST_FAULTS)
            what = f"round {self.rounds}: {faults} for {lasts_seconds:.1f} s"
        finally:
            faults.heal()
        self.world.check_healed()
        for finding in self.ledger.findings[known:]:
            self._say(f"{what}: {finding}")

    # -- what goes on meanwhile ---------------------------------------------------------------

    def _each(self, work: Callable[[Host], None]) -> list[Callable[[], None]]:
        def again_and_again(host: Host) -> Callable[[], None]:
            def run() -> None:
                while not self._ends.is_set():
                    work(host)

            return run

        return [again_and_again(host) for host in self.world.hosts]

    def _read(self, host: Host) -> None:
        host.read(random.choice([0.0, 0.0, HOLD_SECONDS]))  # noqa: S311  guards nothing
        self._pause(READER_PAUSE_SECONDS)

    def _write(self, host: Host) -> None:
        if random.random() < CRASHES:  # noqa: S311  guards nothing
            host.update_by_killed_writer(random.randint(1, STEPS))  # noqa: S311
            return
        update = random.choice([host.update, host.update_by_writer])  # noqa: S311  guards nothing
        revision = update()
        if revision is not None and random.random() < 0.5:  # noqa: S311  guards nothing
            host.wait(revision)
        self._pause(WRITER_PAUSE_SECONDS)

    def _pause(self, longest_seconds: float) -> None:
        self._ends.wait(random.uniform(0, longest_seconds))  # noqa: S311  guards nothing

    # -- the table ----------------------------------------------------------------------------

    def table(self) -> str:
        """Return what was done and what was found, as lines."""
        counts, ledger = self.ledger.counts, self.ledger
        rows: list[tuple[str, object]] = [
            ("minutes", f"{self.seconds / 60:.1f}"),
            ("rounds of faults", self.rounds),
            ("updates", counts["updates"]),
            (
                "updates refused / unknown",
                f"{counts['updates refused']} / {counts['updates unknown']}",
            ),
            ("reads checked", counts["reads"]),
            ("reads unanswered", counts["reads unanswered"]),
            ("proofs / refused", f"{counts['proofs']} / {counts['proofs refused']}"),
            *((kind, counts[kind]) for kind in WRONGS),
            ("newcomers behind a proof", counts["newcomers behind a proof"]),
            ("longest divergence", f"{ledger.longest_divergence_seconds:.2f} s"),
            ("longest after the faults", f"{ledger.longest_healing_seconds:.2f} s"),
            ("starts of servers", sum(host.starts for host in self.world.hosts)),
            ("starts of writers", sum(host.writer.starts for host in self.world.hosts)),
        ]
        faults = sorted(kind for kind in counts if kind.startswith("fault: "))
        rows += [(kind, counts[kind]) for kind in faults]
        lines = [f"{name:<28}{value}" for name, value in rows]
        lines.append(f"{'':<28}{'processes':<16}{'memory (MB)':<18}descriptors")
        for kind in sorted(self.usage[0].keys() | self.usage[-1].keys()):
            ends = [use.get(kind, (0, 0, 0)) for use in (self.usage[0], self.usage[-1])]
            columns = [f"{first} -> {last}" for first, last in zip(*ends, strict=True)]
            lines.append(f"{kind:<28}{columns[0]:<16}{columns[1]:<18}{columns[2]}")
        return "\n".join(lines)


def usage(world: World) -> Usage:
    """Return what each kind of process uses."""
    found: Usage = {}
    for kind, pids in world.processes().items():
        sizes = [size for size in map(_size, pids) if size is not None]
        if sizes:
            found[kind] = (len(sizes), max(s[0] for s in sizes), max(s[1] for s in sizes))
    return found


def _size(pid: int) -> tuple[int, int] | None:
    """Return the resident memory of a process in megabytes, and how many descriptors it has."""
    directory = Path(f"/proc/{pid}")
    try:
        status = (directory / "status").read_text()
        descriptors = len(list((directory / "fd").iterdir()))
    except OSError:  # it has just ended
        return None
    resident = [line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")]
    return (int(resident[0]) // 1024, descriptors) if resident else None


def main() -> int:
    """Run, print the table, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--database", choices=SERVERS, default="postgresql")
    names = {str(fault): fault for fault in FAULTS}
    parser.add_argument(
        "--only", metavar="FAULT", action="append", choices=names, help=", ".join(names)
    )
    chosen = parser.parse_args()
    # A shell that starts it with `&` has it ignore Ctrl-C, which ends all that it has started.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _say(f"seed {chosen.seed}, {chosen.database}")
    with WorldWithCable(chosen.database) as world:
        if world.without_cable:
            _say(f"no host has a network of its own: {world.without_cable}")
        faults = [names[name] for name in chosen.only or names]
        soak = Soak(world, chosen.seed, _say, faults)
        try:
            soak.run(60 * chosen.minutes)
        except BaseException:
            for host in world.hosts:
                _say(host.log()[-2000:])
            raise
        _say(soak.table())
    return 0 if world.ledger.is_right else 1


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201  it is what the program is for


if __name__ == "__main__":
    sys.exit(main())
