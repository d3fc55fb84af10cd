"""What a change, and a restart of Redis, cost a fleet; see docs/scaling.md.

::

    python -m tests.bench.fleet [--hosts 100 300 1000 3000] [--real 2] [--changes 20]
        [--processes 2] [--poll-seconds 5]
"""

from __future__ import annotations

import argparse

from tests.bench.fleet.measure import CPU_HEADER, HEADER, RESTART_HEADER, measure
from tests.bench.table import print_table
from tests.support import PostgresqlServer


def main() -> None:
    """Print one line for each size, and one for a restart of Redis."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.fleet")
    parser.add_argument("--hosts", type=int, nargs="+", default=[100, 300, 1_000, 3_000])
    parser.add_argument("--real", type=int, default=2, help="hosts that are a uWSGI of 4 workers")
    parser.add_argument("--changes", type=int, default=20)
    parser.add_argument("--processes", type=int, default=2, help="that play the other hosts")
    parser.add_argument(
        "--poll-seconds", type=float, default=5.0, help="more on a machine that is busy"
    )
    chosen = parser.parse_args()
    sizes = []
    for count in chosen.hosts:
        with PostgresqlServer() as server:
            sizes.append(
                measure(
                    {
                        "WAFFLE_DATABASE_URI": server.url,
                        "WAFFLE_POLL_SECONDS": chosen.poll_seconds,
                    },
                    count,
                    real=chosen.real,
                    changes=chosen.changes,
                    processes=chosen.processes,
                )
            )
    print_table("fleet changes", HEADER, [size.row for size in sizes])
    print_table("fleet CPU", CPU_HEADER, [size.cpu_row for size in sizes])
    print_table("fleet restarts", RESTART_HEADER, [size.restart_row for size in sizes])


if __name__ == "__main__":
    main()
