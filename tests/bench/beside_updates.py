"""What requests take while 10,000 updates run beside them.

::

    python -m tests.bench.beside_updates [updates] [sqlite|postgresql|mariadb]

Requests come at a fixed rate, far from what the workers could answer, and the time of each counts
from the moment that it was due: so one that had to wait behind others shows. Windows take turns:
without updates; with as many updates of another namespace, which cost this machine the same but
mean nothing to the workers; and with updates that every worker follows.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from flask import Flask

from tests.bench.table import print_table, quantile
from tests.support import DatabaseKind, RedisServer, UwsgiServer, fresh_database, wait_until
from tests.support.instance import BOOT
from tests.support.lifecycle import Closed
from tests.support.uwsgi_server import Options
from uwsgi_waffle import WaffleConf

WORKERS = 4
SETTINGS = 20
#: Requests a second, of all clients.
RATE = 200.0
CLIENTS = 8
#: Updates a second.
UPDATE_RATE = 50.0
WINDOW_SECONDS = 4.0
UPDATES = 10_000
SOON_SECONDS = 20.0

NONE, ELSEWHERE, HERE = "none", "of another namespace", "of the workers' settings"
WRITER = "writer"
REQUEST = b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n"


def main() -> None:
    """Print what requests take in each kind of window."""
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else UPDATES
    database = cast("DatabaseKind", sys.argv[2] if len(sys.argv) > 2 else "postgresql")
    with (
        RedisServer() as redis_server,
        fresh_database(database) as database_uri,
        _host(database_uri, redis_server) as host,
    ):
        where = database_uri, redis_server.url, host.directory
        with Writer(*where, "elsewhere") as elsewhere, Writer(*where, "default") as here:
            writers = {NONE: None, ELSEWHERE: elsewhere, HERE: here}
            made, rounds = _measure(host.port, writers, wanted)
    rows = [[kind, *_cells(rounds, kind)] for kind in writers]
    load = ", ".join(f"{figure:.0f}" for figure in os.getloadavg())
    print(  # noqa: T201
        f"\n{made:,} updates, {len(rounds)} rounds of 3 windows of {WINDOW_SECONDS:g} s, "
        f"{RATE:g} requests/s; load of the machine: {load}"
    )
    header = ("updates", "requests", "p50 ms", "p99 ms", "max ms", "p99 / none", "by round")
    print_table("beside updates", header, rows)


@contextlib.contextmanager
def _host(database_uri: str, redis_server: RedisServer) -> Iterator[UwsgiServer]:
    application: Options = {"module": "tests.apps.whole_numbers:app", "processes": WORKERS}
    server = UwsgiServer({**application, **BOOT, "disable-logging": True})
    server.environment = {
        "WAFFLE_MULTIPROC": "true",
        "WAFFLE_DATABASE_URI": database_uri,
        "WAFFLE_REDIS_URL": redis_server.url,
        "WAFFLE_SNAPSHOT_PATH": str(server.directory / "snapshot"),
        "TEST_SETTINGS": str(SETTINGS),
    }
    with server:
        wait_until(lambda: redis_server.subscribers() == 1, SOON_SECONDS, "the mule listens")
        yield server


class Writer(Closed):
    """A process of another host, which changes one setting at a fixed rate when it is asked to."""

    def __init__(self, uri: str, redis_url: str, directory: Path, namespace: str) -> None:
        """Start it."""
        snapshot = directory / f"writer-{namespace}" / "snapshot"
        command = [
            sys.executable,
            "-m",
            "tests.bench.beside_updates",
            WRITER,
            uri,
            redis_url,
            namespace,
            str(snapshot),
        ]
        self._program = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._line() == "ready"

    def begin(self, began: float, ends: float) -> None:
        """Have it write from then to then, on the monotonic clock."""
        assert self._program.stdin is not None
        self._program.stdin.write(f"{began} {ends}\n")
        self._program.stdin.flush()

    def end(self) -> int:
        """Return how many updates it has made."""
        return int(self._line())

    def _line(self) -> str:
        assert self._program.stdout is not None
        return self._program.stdout.readline().strip()

    def close(self) -> None:
        """End it."""
        assert self._program.stdin is not None
        assert self._program.stdout is not None
        self._program.stdin.close()
        self._program.wait(SOON_SECONDS)
        self._program.stdout.close()


def _write(uri: str, redis_url: str, namespace: str, snapshot: str) -> None:
    """Be the writer: for each line, make updates from one moment to another."""
    app = Flask("writer")
    app.config.update(
        WAFFLE_CONFS={f"S{n:03}": {"default": 0} for n in range(SETTINGS)},
        WAFFLE_DATABASE_URI=uri,
        WAFFLE_NAMESPACE=namespace,
        WAFFLE_REDIS_URL=redis_url,
        WAFFLE_SNAPSHOT_PATH=snapshot,
        WAFFLE_MULTIPROC=True,
        WAFFLE_LISTENER="none",
    )
    waffle: WaffleConf[Any] = WaffleConf(app)
    number = waffle.update({"S000": -1}).revision
    print("ready", flush=True)  # noqa: T201  the answer
    for line in sys.stdin:
        due, ends = map(float, line.split())
        count = 0
        while due < ends and time.monotonic() < ends:
            time.sleep(max(0.0, due - time.monotonic()))
            number += 1
            waffle.update({"S000": number})
            count += 1
            due += 1 / UPDATE_RATE
        print(count, flush=True)  # noqa: T201  the answer


def _measure(
    port: int, writers: Mapping[str, Writer | None], wanted: int
) -> tuple[int, list[dict[str, list[float]]]]:
    """Return how many updates were made that workers follow, and what each round took."""
    rounds: list[dict[str, list[float]]] = []
    made = 0
    chosen = random.Random(1)  # noqa: S311  the same order each time
    _window(port, None)  # to warm up
    while made < wanted:
        found: dict[str, list[float]] = {}
        for kind in chosen.sample(list(writers), len(writers)):
            found[kind], count = _window(port, writers[kind])
            made += count if kind == HERE else 0
        rounds.append(found)
    return made, rounds


def _window(port: int, writer: Writer | None) -> tuple[list[float], int]:
    """Return the milliseconds that each request took, and how many updates were made."""
    times: list[float] = []
    began = time.monotonic() + 0.05
    ends = began + WINDOW_SECONDS
    clients = [
        threading.Thread(target=_ask, args=(port, began + n / RATE, ends, times))
        for n in range(CLIENTS)
    ]
    if writer is not None:
        writer.begin(began, ends)
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    return times, 0 if writer is None else writer.end()


def _ask(port: int, due: float, ends: float, times: list[float]) -> None:
    while due < ends:
        time.sleep(max(0.0, due - time.monotonic()))
        with socket.create_connection(("127.0.0.1", port), SOON_SECONDS) as connection:
            connection.sendall(REQUEST)
            answer = b""
            while part := connection.recv(65_536):
                answer += part
        assert b" 200 " in answer[:20], answer[:200]
        times.append(1000 * (time.monotonic() - due))
        due += CLIENTS / RATE


def _cells(rounds: list[dict[str, list[float]]], kind: str) -> list[str]:
    times = [each for found in rounds for each in found[kind]]
    none = [each for found in rounds for each in found[NONE]]
    ratios = [quantile(found[kind], 0.99) / quantile(found[NONE], 0.99) for found in rounds]
    low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    p99 = quantile(times, 0.99)
    return [
        f"{len(times):,}",
        f"{statistics.median(times):.2f}",
        f"{p99:.1f}",
        f"{max(times):.0f}",
        f"{p99 / quantile(none, 0.99):.2f}",
        f"{middle:.2f} ({low:.2f} to {high:.2f})",
    ]


if __name__ == "__main__":
    if sys.argv[1:2] == [WRITER]:
        _write(*sys.argv[2:])
    else:
        main()
