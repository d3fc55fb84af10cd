"""From commit to the last worker: of this host, and of another one, beside the floor of the parts.

::

    python -m tests.bench.propagation [sqlite] [postgresql]

The two hosts are two uWSGI instances with separate host snapshots on this machine, so the
monotonic clock is the same for both.
"""

from __future__ import annotations

import contextlib
import random
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import sqlalchemy as sa

from tests.bench.table import print_table, summary
from tests.support import DatabaseKind, RedisServer, UwsgiServer, fresh_database, wait_until
from tests.support.waffle_host import WaffleHost, hosts

CHANGES = 300
LARGE_WORKERS = 32
LARGE_CHANGES = 60
SOON_SECONDS = 20.0
#: What the ancestor took here at 32 workers and 100 settings.
ANCESTOR_MS = {"sqlite": 437.0, "postgresql": 1667.0}


def main() -> None:
    """Print a table for each database that is named."""
    for kind in sys.argv[1:] or list(ANCESTOR_MS):
        with RedisServer() as redis_server:
            rows = [*_floors(cast("DatabaseKind", kind), redis_server)]
            rows += _two_hosts(cast("DatabaseKind", kind), redis_server)
            rows += _large(cast("DatabaseKind", kind), redis_server)
        print(f"\n{kind}")  # noqa: T201
        print_table(("milliseconds", "p50", "p99", "max"), rows)


def _floors(kind: DatabaseKind, redis_server: RedisServer) -> Iterator[list[str]]:
    """Measure the parts, which bound what is made of them."""
    parts = {
        "floor: PUBLISH to receipt": _publish_to_receipt(redis_server),
        "floor: one SELECT of 20 rows": _select(kind),
        "floor: one uWSGI signal to the last of 4 workers": _signal(),
    }
    yield from ([name, *summary(values)] for name, values in parts.items())
    sums = [sum(float(summary(values)[n]) for values in parts.values()) for n in range(3)]
    yield ["floor: their sum", *(f"{value:.2f}" for value in sums)]


def _publish_to_receipt(redis_server: RedisServer) -> list[float]:
    found: list[float] = []
    heard = threading.Event()
    with redis_server.client() as client, redis_server.client().pubsub() as pubsub:  # type: ignore[no-untyped-call]
        pubsub.subscribe("floor")

        def listen() -> None:
            while len(found) < CHANGES:
                message = pubsub.get_message(timeout=SOON_SECONDS)
                if message is not None and message["type"] == "message":
                    found.append((time.monotonic_ns() - int(message["data"])) / 1e6)
                    heard.set()

        thread = threading.Thread(target=listen)
        thread.start()
        wait_until(lambda: redis_server.subscribers("floor") == 1, SOON_SECONDS, "it listens")
        for _ in range(CHANGES):
            heard.clear()
            client.publish("floor", time.monotonic_ns())
            heard.wait(SOON_SECONDS)
        thread.join()
    return found


def _select(kind: DatabaseKind) -> list[float]:
    found = []
    with fresh_database(kind) as uri:
        engine = sa.create_engine(uri)
        table = sa.Table(
            "floor", sa.MetaData(), sa.Column("n", sa.String(9)), sa.Column("v", sa.Text)
        )
        table.create(engine)
        with engine.begin() as connection:
            connection.execute(sa.insert(table), [{"n": str(n), "v": "1"} for n in range(20)])
        for _ in range(CHANGES):
            started_ns = time.monotonic_ns()
            with engine.connect() as connection:
                connection.execute(sa.select(table)).all()
            found.append((time.monotonic_ns() - started_ns) / 1e6)
        engine.dispose()
    return found


def _signal() -> list[float]:
    """Raise a uWSGI signal in a mule, and see when the last of 4 workers has run its handler."""
    app = Path(__file__).parents[1] / "apps" / "signal_floor.py"
    server = UwsgiServer({"processes": 4, "module": "tests.apps.signal_floor:app", "mule": app})
    journal = server.directory / "journal"
    server.environment = {"TEST_JOURNAL": str(journal), "TEST_SIGNALS": str(CHANGES)}
    with server:
        wait_until(lambda: journal.read_text().count("ran") == 4 * CHANGES, SOON_SECONDS, "all ran")
        lines = [line.split() for line in journal.read_text().splitlines()]
    found: list[float] = []
    for at_ns, what in sorted((int(at), what) for what, at in lines):
        if what == "sent":
            sent_ns = at_ns
            found.append(0.0)
        else:
            found[-1] = (at_ns - sent_ns) / 1e6
    return found


def _two_hosts(kind: DatabaseKind, redis_server: RedisServer) -> Iterator[list[str]]:
    """Measure from the commit to the last worker's callback, which follows its swap."""
    with _pair(kind, redis_server, workers=4, settings=20) as both:
        here, there = _change(both, CHANGES)
        yield ["commit to the last of 4 workers, same host", *summary(here)]
        yield ["commit to the last of 4 workers, other host", *summary(there)]


def _large(kind: DatabaseKind, redis_server: RedisServer) -> Iterator[list[str]]:
    """Measure the same at 32 workers and 100 settings."""
    with _pair(kind, redis_server, workers=LARGE_WORKERS, settings=100) as both:
        here, there = _change(both, LARGE_CHANGES)
        for name, values in (("same", here), ("other", there)):
            cells = summary(values)
            times = ANCESTOR_MS[kind] / float(cells[0])
            label = f"32 workers, 100 settings, {name} host (ancestor / ours: {times:.0f})"
            yield [label, *cells]


@contextlib.contextmanager
def _pair(
    kind: DatabaseKind, redis_server: RedisServer, *, workers: int, settings: int
) -> Iterator[list[WaffleHost]]:
    """Run two hosts that never poll."""
    with fresh_database(kind) as database_uri:
        environment = {
            "WAFFLE_DATABASE_URI": database_uri,
            "WAFFLE_REDIS_URL": redis_server.url,
            "WAFFLE_POLL_SECONDS": "3600",
            "TEST_SETTINGS": str(settings),
        }
        with hosts(environment, workers=workers) as both:
            wait_until(lambda: redis_server.subscribers() == 2, SOON_SECONDS, "both listen")
            yield both


def _change(both: list[WaffleHost], count: int) -> tuple[list[float], list[float]]:
    """Change a setting again and again; return how late the last worker here, and there, was."""
    chosen = random.Random(1)  # noqa: S311  the same workers each time
    late: tuple[list[float], list[float]] = ([], [])
    workers = [set(host.server.worker_pids()) for host in both]
    for value in range(1, count + 1):
        done = both[0].update({"S000": value}, worker=chosen.randrange(both[0].workers))
        for host, pids, found in zip(both, workers, late, strict=True):
            _wait_until_called_back(host, value, pids)
            called_back = host.called_back(value)
            last_ns = max(called_back[pid] for pid in pids)
            found.append((last_ns - done["committed_ns"]) / 1e6)
    return late


def _wait_until_called_back(host: WaffleHost, value: int, pids: set[int]) -> None:
    """Wait without asking the server, which has better things to do."""
    wait_until(lambda: pids <= host.called_back(value).keys(), SOON_SECONDS, "all called back")


if __name__ == "__main__":
    main()
