"""Where the time goes from a commit to the last worker, by the clock of one machine.

::

    python -m tests.bench.budget [sqlite] [postgresql]

Each step is noted where it begins or ends, in each process of two hosts. Times count from the
commit; the last process of a step is the one that counts.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator
from typing import cast

from tests.bench.propagation import change, pair
from tests.bench.table import print_table, quantile
from tests.support import DatabaseKind, RedisServer
from tests.support.instance import Instance

CHANGES = 400
#: Which process has come to a step, and when.
Note = tuple[int, int, str]


def main() -> None:
    """Print a table for each database that is named."""
    for kind in sys.argv[1:] or ["sqlite"]:
        with (
            RedisServer() as redis_server,
            pair(
                cast("DatabaseKind", kind), redis_server, workers=4, settings=20, app="timed"
            ) as both,
        ):
            change(both, CHANGES)
            notes = [_notes(host) for host in both]
            commits = [at_ns for _, at_ns, step in notes[0] if step == "committed"]
            rows: list[list[str]] = []
            for name, host, noted in zip(("same", "other"), both, notes, strict=True):
                rows += _rows(name, set(host.worker_pids()), noted, commits)
        header = ("milliseconds after the commit", "first p50", "last p50", "last p99")
        print_table(f"budget {kind}", header, rows)


def _rows(
    name: str, workers: set[int], notes: list[Note], commits: list[int]
) -> Iterator[list[str]]:
    """Yield the steps of a host, in the order in which they are reached."""
    seen: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for pid, at_ns, step in notes:
        number = bisect_right(commits, at_ns) - 1
        if number >= 0:
            who = "a worker" if pid in workers else "the mule"
            late_ms = (at_ns - commits[number]) / 1e6
            seen[f"{name} host, {who}: {step}"][number].append(late_ms)
    figures = []
    for step, changes in seen.items():
        first, last = [*map(min, changes.values())], [*map(max, changes.values())]
        if len(changes) > len(commits) // 2:  # else not each change takes the step
            figures.append((step, quantile(first, 0.5), quantile(last, 0.5), quantile(last, 0.99)))
    for step, *late in sorted(figures, key=lambda found: found[2]):
        yield [step, *(f"{figure:.2f}" for figure in late)]


def _notes(host: Instance) -> list[Note]:
    """Return what the processes of a host have noted."""
    lines = host.journal.path.with_name("journal.steps").read_text().splitlines()
    fields = (line.split(" ", 2) for line in lines)
    return [(int(pid), int(at_ns), step) for pid, at_ns, step in fields]


if __name__ == "__main__":
    main()
