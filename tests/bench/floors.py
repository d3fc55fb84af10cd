"""What the parts of a change's way take by themselves, and the least that puts them together."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import sqlalchemy as sa

from tests.bench.table import summary
from tests.support import DatabaseKind, RedisServer, UwsgiServer, fresh_database, wait_until
from tests.support.places import ROOT
from tests.support.uwsgi_server import Options

CHANGES = 300
SOON_SECONDS = 20.0
FLOOR = sa.Table("floor", sa.MetaData(), sa.Column("n", sa.String(9)), sa.Column("v", sa.Text))


def parts(kind: DatabaseKind, redis_server: RedisServer) -> Iterator[list[str]]:
    """Measure the parts, which bound what is made of them."""
    measured = {
        "floor: PUBLISH to receipt": _publish_to_receipt(redis_server),
        "floor: one SELECT of 20 rows": _select(kind),
        "floor: one uWSGI signal to the last of 4 workers": _signal(),
    }
    yield from ([name, *summary(values)] for name, values in measured.items())
    sums = [sum(float(summary(values)[n]) for values in measured.values()) for n in range(3)]
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
    with _rows(kind, 20) as engine:
        for _ in range(CHANGES):
            started_ns = time.monotonic_ns()
            with engine.connect() as connection:
                connection.execute(sa.select(FLOOR)).all()
            found.append((time.monotonic_ns() - started_ns) / 1e6)
    return found


@contextlib.contextmanager
def _rows(kind: DatabaseKind, count: int) -> Iterator[sa.Engine]:
    """Make a database with a table of some rows."""
    with fresh_database(kind) as uri:
        engine = sa.create_engine(uri)
        FLOOR.create(engine)
        with engine.begin() as connection:
            rows = [{"n": str(n), "v": "1"} for n in range(count)]
            connection.execute(sa.insert(FLOOR), rows)
        yield engine
        engine.dispose()


def _signal() -> list[float]:
    """Raise a uWSGI signal in a mule, and see when the last of 4 workers has run its handler."""
    app = ROOT / "tests" / "apps" / "signal_floor.py"
    server = UwsgiServer({"processes": 4, "module": "tests.apps.signal_floor:app", "mule": app})
    journal = server.directory / "journal"
    server.environment = {"TEST_JOURNAL": str(journal), "TEST_SIGNALS": str(CHANGES)}
    with server:
        _wait_for_notes(journal, 4 * CHANGES)
        return _last_of_each(journal, "sent")


def _last_of_each(journal: Path, first: str) -> list[float]:
    """Return how long after each note of *first* the last one came before the next *first*."""
    lines = [line.split() for line in journal.read_text().splitlines()]
    found: list[float] = []
    for at_ns, what in sorted((int(at), what) for what, at in lines):
        if what == first:
            sent_ns = at_ns
            found.append(0.0)
        else:
            found[-1] = (at_ns - sent_ns) / 1e6
    return found


def chain(
    kind: DatabaseKind, redis_server: RedisServer, *, workers: int, rows: int, hosts: int = 1
) -> list[list[float]]:
    """Move changes by the least that can, which is :mod:`tests.apps.bare_chain`.

    :return: for each host, how late its last worker was at each change
    """
    app = Path(__file__).parents[1] / "apps" / "bare_chain.py"
    options: Options = {"processes": workers, "module": "tests.apps.bare_chain:app", "mule": app}
    servers = [UwsgiServer(options) for _ in range(hosts)]
    journals = [server.directory / "journal" for server in servers]
    change = sa.update(FLOOR).where(FLOOR.c.n == "0")
    with _rows(kind, rows) as engine, redis_server.client() as client, ExitStack() as stack:
        for server, journal in zip(servers, journals, strict=True):
            memory = server.directory / "memory"
            memory.write_bytes(bytes(1 << 20))
            server.environment = {
                "TEST_JOURNAL": str(journal),
                "TEST_MAP": str(memory),
                "TEST_REDIS": redis_server.url,
                "TEST_DATABASE": engine.url.render_as_string(hide_password=False),
            }
            stack.enter_context(server)
        notes = [stack.enter_context(journal.open("a", buffering=1)) for journal in journals]
        redis_server.wait_for_subscribers(hosts, "chain")
        for number in range(1, CHANGES + 1):
            with engine.begin() as connection:
                connection.execute(change.values(v=str(number)))
            committed_ns = time.monotonic_ns()
            client.publish("chain", number)
            for journal, file in zip(journals, notes, strict=True):
                file.write(f"committed {committed_ns}\n")
                _wait_for_notes(journal, workers * number)
        return [_last_of_each(journal, "committed") for journal in journals]


def _wait_for_notes(journal: Path, count: int) -> None:
    """Return when handlers have run so often."""
    wait_until(lambda: journal.read_text().count("ran") == count, SOON_SECONDS, "all ran")
