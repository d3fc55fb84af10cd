"""From commit to the last worker: of this host, and of another one, beside the bare chain.

Once to where a worker serves the change, in an application without callbacks, as the bare chain has
none; and once to its callback.

::

    python -m tests.bench.propagation [sqlite] [postgresql]

The two hosts are two uWSGI instances with separate host snapshots on this machine, so the
monotonic clock is the same for both.
"""

from __future__ import annotations

import contextlib
import importlib.util
import random
import sys
from collections.abc import Iterator
from typing import cast

from tests.bench import floors
from tests.bench.table import print_table, ratios, summary
from tests.support import DatabaseKind, RedisServer, fresh_database, wait_until
from tests.support.instance import Instance, hosts
from tests.support.uwsgi_server import Options

CHANGES = 300
HEADER = ("milliseconds", "p50", "p99", "max")
#: How many changes follow each other where two kinds take turns.
TURN_CHANGES = 10
LARGE_WORKERS = 32
LARGE_CHANGES = 60
SOON_SECONDS = 20.0
#: Flask-WaffleConf 0.3.1 listens in each worker, and takes long for each change.
ANCESTOR: Options = {
    "shared-import": None,
    "mule": None,
    "lazy-apps": True,
    "enable-threads": True,
}
ANCESTOR_CHANGES = 15


def main() -> None:
    """Print tables for each database that is named."""
    for kind in sys.argv[1:] or ("sqlite", "postgresql"):
        with RedisServer() as redis_server:
            where = cast("DatabaseKind", kind), redis_server
            print_table(f"parts {kind}", HEADER, [*floors.parts(*where)])
            _two_hosts(*where)
            print_table(f"signatures {kind}", HEADER, [*_signatures(*where)])
            print_table(f"32 workers {kind}", HEADER, [*_large(*where)])


def _two_hosts(kind: DatabaseKind, redis_server: RedisServer) -> None:
    """Measure to where the last worker serves the change, and to where it has called back."""
    (alone,) = floors.chain(kind, redis_server, workers=4, rows=20)
    # As many processes as two hosts have; both hosts of bare chains are "the other one".
    beside = floors.chain(kind, redis_server, workers=4, rows=20, hosts=2)[1]
    series = {"one bare chain": alone, "a bare chain beside another": beside}
    rows = [[name, *summary(late)] for name, late in series.items()]
    for app, what in (("serving", "serves it"), ("whole_numbers", "has called back")):
        with pair(kind, redis_server, workers=4, settings=20, app=app) as both:
            for host, late in zip(("same", "other"), change(both, CHANGES), strict=True):
                name = f"{host} host, the last {what}"
                series[name] = late
                rows.append([name, *summary(late)])
                rows.append(["- in bare chains", *ratios(late, alone)])
                rows.append(["- in bare chains beside another", *ratios(late, beside)])
    print_table(f"propagation {kind}", HEADER, rows, series)


def _signatures(kind: DatabaseKind, redis_server: RedisServer) -> Iterator[list[str]]:
    """Measure with signatures and without, in turns."""
    with contextlib.ExitStack() as stack:
        pairs = [
            stack.enter_context(pair(kind, redis_server, workers=4, settings=20, app=app))
            for app in ("whole_numbers", "unsigned")
        ]
        rounds: tuple[list[list[float]], ...] = ([[], []], [[], []])
        for first in range(1, CHANGES + 1, TURN_CHANGES):
            for both, found in zip(pairs, rounds, strict=True):
                for host, late in enumerate(change(both, TURN_CHANGES, first=first)):
                    found[host] += late
        for name, signed, unsigned in zip(("same", "other"), *rounds, strict=True):
            yield [f"signed, {name} host", *summary(signed)]
            yield ["- in changes without signatures", *ratios(signed, unsigned)]


def _large(kind: DatabaseKind, redis_server: RedisServer) -> Iterator[list[str]]:
    """Measure the same at 32 workers and 100 settings."""
    (chain,) = floors.chain(kind, redis_server, workers=LARGE_WORKERS, rows=100)
    yield ["one bare chain, 32 workers, 100 rows", *summary(chain)]
    with pair(kind, redis_server, workers=LARGE_WORKERS, settings=100) as both:
        ours = change(both, LARGE_CHANGES)
    ancestors = _ancestors(kind, redis_server)
    for name, late, ancestor in zip(("same", "other"), ours, ancestors, strict=True):
        yield [f"32 workers, 100 settings, {name} host", *summary(late)]
        yield ["- in bare chains", *ratios(late, chain)]
        if ancestor:
            yield ["- the same with Flask-WaffleConf 0.3.1", *summary(ancestor)]
            yield ["- which takes so many times as long", *ratios(ancestor, late)]


def _ancestors(kind: DatabaseKind, redis_server: RedisServer) -> tuple[list[float], list[float]]:
    """Measure what this package replaces, if it is installed."""
    if importlib.util.find_spec("flask_waffleconf") is None:
        return [], []
    with pair(kind, redis_server, workers=LARGE_WORKERS, settings=100, app="ancestor") as both:
        return change(both, ANCESTOR_CHANGES)


@contextlib.contextmanager
def pair(
    kind: DatabaseKind,
    redis_server: RedisServer,
    *,
    workers: int,
    settings: int,
    app: str = "whole_numbers",
) -> Iterator[list[Instance]]:
    """Run two hosts that never poll."""
    with fresh_database(kind) as database_uri:
        environment = {
            "TEST_LOCK": f"{redis_server.directory}/lock",
            "TEST_REDIS_PORT": str(redis_server.port),
            "WAFFLE_DATABASE_URI": database_uri,
            "WAFFLE_REDIS_URL": redis_server.url,
            "WAFFLE_REDIS_CHANNEL": app,
            "TEST_SETTINGS": str(settings),
        }
        is_ancestor = app == "ancestor"
        options: Options = {"module": f"tests.apps.{app}:app", **(ANCESTOR if is_ancestor else {})}
        listeners = 2 * workers if is_ancestor else 2
        with hosts(environment, options, workers=workers) as both:
            wait_until(
                lambda: redis_server.subscribers(app) == listeners, SOON_SECONDS, "all listen"
            )
            yield both


def change(both: list[Instance], count: int, *, first: int = 1) -> tuple[list[float], list[float]]:
    """Change a setting again and again; return how late the last worker here, and there, was."""
    chosen = random.Random(first)  # noqa: S311  the same workers each time
    late: tuple[list[float], list[float]] = ([], [])
    workers = [set(host.worker_pids()) for host in both]
    for value in range(first, first + count):
        done = both[0].update({"S000": value}, worker=chosen.randint(1, both[0].workers))
        for host, pids, found in zip(both, workers, late, strict=True):
            _wait_until_called_back(host, value, pids)
            called_back = host.journal.called_back(value)
            last_ns = max(called_back[pid] for pid in pids)
            found.append((last_ns - done["committed_ns"]) / 1e6)
    return late


def _wait_until_called_back(host: Instance, value: int, pids: set[int]) -> None:
    """Wait without asking the server, which has better things to do."""
    wait_until(lambda: pids <= host.journal.pids(value), SOON_SECONDS, "all called back")


if __name__ == "__main__":
    main()
