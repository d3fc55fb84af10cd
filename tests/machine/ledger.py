"""What was written, read and proven, and whether all of it agrees.

Each update sets all settings to one number that no other update uses, so an answer tells which
update it is of. Times are monotonic and the same for all processes of a machine.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["LISTED_AT", "WRONGS", "Floor", "Ledger", "began_at"]

#: What must never be: name -> meaning.
WRONGS = {
    "stale": "a request that started after `update` had returned on its host saw an older revision",
    "backwards": "a process served an older revision than before",
    "mixed": "a request saw two revisions, or a revision with the values of another",
    "lost": "an update that had returned is not in the history",
    "made after refusal": "an update that had raised is in the history",
    "false yes": "`wait` returned while a living process did not serve the revision",
    "crashed": "an update ended in what is no WaffleError",
    "unproven": "once the faults had ended, `wait` did not say yes",
    "late": "once the faults had ended, a process did not serve SQL's revision in time",
}


#: The header of an answer that says when its process was listed, in seconds since the boot.
LISTED_AT = "listed-at"
#: How many findings are shown with all that is known of the host.
MOST_EVIDENCE = 3


@dataclass(frozen=True)
class Floor:
    """The least that a request of a host may see.

    :ivar updated: the latest revision whose `update` had returned on the host
    :ivar proven: the latest revision that `wait` had proven
    :ivar seen: pid -> the latest revision that the process had served
    """

    updated: int
    proven: int
    seen: Mapping[int, int]


@dataclass
class _Host:
    updated: int = 0
    proven: int = 0
    up_since: float | None = None
    latest: int = 0
    without_sql: tuple[float, float] = (0.0, 0.0)
    unseen: dict[int, float] = field(default_factory=dict)
    seen: dict[int, int] = field(default_factory=dict)


class Ledger:
    """The record of a run; every method may be called from any thread."""

    def __init__(self) -> None:
        """Begin an empty record."""
        self.counts: Counter[str] = Counter()
        self.findings: list[str] = []
        self.longest_divergence_seconds = 0.0
        self.longest_healing_seconds = 0.0
        self._lock = threading.Lock()
        self._value = 0
        self._began: dict[int, float] = {}
        self._made: dict[int, int] = {}
        self._refused: set[int] = set()
        self._served: dict[int, int] = {0: 0}
        self._hosts: dict[str, _Host] = {}
        self._stopped: dict[int, float] = {}
        self._proofs: dict[int, str] = {}
        self._proven_at: dict[int, float] = {}

    @property
    def is_right(self) -> bool:
        """Whether nothing was wrong so far."""
        return not any(self.counts[wrong] for wrong in WRONGS)

    @property
    def latest(self) -> int:
        """The latest revision whose update has returned."""
        with self._lock:
            return max(self._made, default=0)

    def wrong(self, kind: str, what: str) -> None:
        """Note something that must never be."""
        assert kind in WRONGS
        self.counts[kind] += 1
        self.findings.append(f"{time.monotonic():.3f} {kind}: {what}")

    # -- updates ------------------------------------------------------------------------------

    def attempt(self) -> int:
        """Return a number to set all settings to."""
        with self._lock:
            self._value += 1
            self._began[self._value] = time.monotonic()
            return self._value

    def made(self, host: str, value: int, revision: int) -> None:
        """Note that an update has returned on a host."""
        with self._lock:
            self.counts["updates"] += 1
            self._made[revision] = value
            here = self._at(host)
            here.updated = max(here.updated, revision)
            for each in self._hosts.values():
                if each.latest < revision and each.up_since is not None:
                    each.unseen[revision] = time.monotonic()

    def refused(self, value: int) -> None:
        """Note that an update has raised, and so was not made."""
        with self._lock:
            self.counts["updates refused"] += 1
            self._refused.add(value)

    def unknown(self) -> None:
        """Note that it is not known whether an update was made."""
        with self._lock:
            self.counts["updates unknown"] += 1

    # -- reads --------------------------------------------------------------------------------

    def floor(self, host: str) -> Floor:
        """Return what a request that starts now must see."""
        with self._lock:
            here = self._at(host)
            return Floor(here.updated, here.proven, dict(here.seen))

    def saw(
        self,
        host: str,
        floor: Floor,
        answer: Mapping[str, Any],
        evidence: Callable[[], str] = lambda: "",
    ) -> None:
        """Judge the answer to a request that started when the floor was taken.

        :param evidence: returns what else is known of the host, for what is wrong
        """
        revision, pid = answer["revision"], answer["pid"]
        values = {*answer["values"].values(), *answer["again"].values()}
        what = f"{host} pid {pid} served revision {revision} as {sorted(values)}"
        with self._lock:
            self.counts["reads"] += 1
            if len(values) != 1 or self._served.setdefault(revision, *values) not in values:
                self.wrong("mixed", f"{what}; known: {self._served.get(revision)}")
            if revision < floor.updated:
                self.wrong("stale", f"{what} after an update to {floor.updated} had returned there")
            elif revision < floor.seen.get(pid, 0):
                self.wrong("backwards", f"{what} after {floor.seen[pid]}")
            elif revision < floor.proven:
                if self._came_later(host, answer, self._proven_at[floor.proven]):
                    self.counts["newcomers behind a proof"] += 1
                else:
                    known = evidence() if self.counts["false yes"] < MOST_EVIDENCE else ""
                    self.wrong("false yes", f"{what} after {self._proofs[floor.proven]}{known}")
            here = self._at(host)
            here.seen[pid] = max(here.seen.get(pid, 0), revision)
            here.latest = max(here.latest, revision)
            for made in [made for made in here.unseen if made <= revision]:
                lasted = time.monotonic() - here.unseen.pop(made)
                self.longest_divergence_seconds = max(self.longest_divergence_seconds, lasted)

    def _came_later(self, host: str, answer: Mapping[str, Any], proven_at: float) -> bool:
        """Whether no process that proves a state could know of one that has answered.

        It began after the proof; or it was listed after that, while its host could not have SQL
        tell the others of it (see "Where it stops" in docs/design.md).
        """
        since, until = self._at(host).without_sql
        listed_at = answer["listed_at"]
        is_alone = since < listed_at < until
        return began_at(answer["pid"]) > proven_at or (is_alone and listed_at > proven_at)

    # -- proofs -------------------------------------------------------------------------------

    def proven(self, host: str, revision: int, began_at: float, fleet: str) -> None:
        """Judge that `wait` has returned on a host, where it had been called at *began_at*."""
        with self._lock:
            self.counts["proofs"] += 1
            made_at = self._began.get(self._made.get(revision, 0))
            for pid, since in self._stopped.items():
                if made_at is not None and since < made_at:
                    self.wrong("false yes", f"pid {pid} was stopped before {revision} was made")
            for here in self._hosts.values():
                if here.up_since is not None and here.up_since < began_at:
                    here.proven = max(here.proven, revision)
            self._proven_at.setdefault(revision, time.clock_gettime(time.CLOCK_BOOTTIME))
            now = f"{time.monotonic():.3f} ({self._proven_at[revision]:.2f} after the boot)"
            self._proofs[revision] = f"{host} at {now}: {fleet}"

    # -- processes ----------------------------------------------------------------------------

    def host_is_up(self, host: str) -> None:
        """Note that all processes of a host serve."""
        with self._lock:
            self._at(host).up_since = time.monotonic()

    def host_is_down(self, host: str) -> None:
        """Note that a host ends; what was proven of it says nothing of its next start."""
        with self._lock:
            here = self._at(host)
            here.up_since, here.proven = None, 0
            here.seen.clear()
            here.unseen.clear()

    def sql_may_be_away(self, host: str) -> None:
        """Note that a host may not reach SQL from now on."""
        with self._lock:
            self._at(host).without_sql = time.clock_gettime(time.CLOCK_BOOTTIME), float("inf")

    def sql_is_back(self, host: str) -> None:
        """Note that a host reaches SQL from now on, if it may not have done so."""
        with self._lock:
            here = self._at(host)
            since, until = here.without_sql
            here.without_sql = since, min(until, time.clock_gettime(time.CLOCK_BOOTTIME))

    def stopped(self, pid: int) -> None:
        """Note that a process that must be waited for cannot do anything from now on."""
        with self._lock:
            self._stopped[pid] = time.monotonic()

    def continues(self, pid: int) -> None:
        """Note that a process may go on, or is gone, from now on."""
        with self._lock:
            self._stopped.pop(pid, None)

    def healed(self, seconds: float) -> None:
        """Note how long it took after the end of all faults until every process agreed."""
        self.longest_healing_seconds = max(self.longest_healing_seconds, seconds)

    # -- the end ------------------------------------------------------------------------------

    def compare(self, history: Mapping[int, int]) -> None:
        """Judge everything by the history: revision -> value."""
        with self._lock:
            for revision, value in self._made.items():
                if history.get(revision) != value:
                    self.wrong("lost", f"{revision} was {value}, is {history.get(revision)}")
            for value in self._refused.intersection(history.values()):
                self.wrong("made after refusal", f"the update to {value}")
            for revision, value in self._served.items():
                if revision and history.get(revision) != value:
                    self.wrong(
                        "mixed", f"{revision} was served as {value}, is {history.get(revision)}"
                    )

    def _at(self, host: str) -> _Host:
        return self._hosts.setdefault(host, _Host())


def began_at(pid: int) -> float:
    """Return when a process began, in seconds since the boot; 0 for one that has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0.0
    return int(stat.rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
