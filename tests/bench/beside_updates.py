"""What requests take while 10,000 updates run beside them.

::

    python -m tests.bench.beside_updates [updates] [sqlite|postgresql|mariadb] [wrk] [rate]

Under ``wrk`` each client asks again as soon as it has an answer, so the workers are as busy as they
can be. At a ``rate`` requests come far from what the workers could answer, and the time of each
counts from the moment that it was due: so one that had to wait behind others shows. Windows take
turns: without updates; with as many updates of another namespace, which cost this machine the same
but mean nothing to the workers; and with updates that every worker follows.
"""

from __future__ import annotations

import contextlib
import random
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
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
WRK_CLIENTS = 16
#: Prints what is read here in a line of its own, times in microseconds.
WRK_REPORT = str(Path(__file__).with_name("wrk_report.lua"))
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
    for load in sys.argv[3:] or LOADS:
        _compare(load, wanted, database)


def _compare(load: str, wanted: int, database: DatabaseKind) -> None:
    with (
        RedisServer() as redis_server,
        fresh_database(database) as database_uri,
        _host(database_uri, redis_server) as host,
    ):
        where = database_uri, redis_server.url, host.directory
        with Writer(*where, "elsewhere") as elsewhere, Writer(*where, "default") as here:
            writers = {NONE: None, ELSEWHERE: elsewhere, HERE: here}
            made, rounds = _measure(LOADS[load], host.port, writers, wanted)
    rows = [[kind, *_cells(rounds, kind)] for kind in writers]
    print(  # noqa: T201
        f"\n{made:,} updates, {len(rounds)} rounds of 3 windows of {WINDOW_SECONDS:g} s"
    )
    header = ("updates", "requests", "p50 ms", "p99 ms", "max ms", "p99 / none", "its quartiles")
    print_table(f"beside updates {load}", header, rows)


@contextlib.contextmanager
def _host(database_uri: str, redis_server: RedisServer) -> Iterator[UwsgiServer]:
    application: Options = {"module": "tests.apps.whole_numbers:app", "processes": WORKERS}
    # uWSGI closes each connection, and wrk takes it for an error where it is not told.
    closes: Options = {"add-header": "Connection: close", "disable-logging": True}
    server = UwsgiServer({**application, **BOOT, **closes})
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


@dataclass(frozen=True)
class Window:
    """What requests took for a few seconds."""

    requests: int
    p50_ms: float
    p99_ms: float
    longest_ms: float


#: Makes requests to a port from one moment to another.
Load = Callable[[int, float, float], Window]


def _measure(
    load: Load, port: int, writers: Mapping[str, Writer | None], wanted: int
) -> tuple[int, list[dict[str, Window]]]:
    """Return how many updates were made that workers follow, and the windows of each round."""
    rounds: list[dict[str, Window]] = []
    made = 0
    chosen = random.Random(1)  # noqa: S311  the same order each time
    _window(load, port, None)  # to warm up
    while made < wanted:
        found: dict[str, Window] = {}
        for kind in chosen.sample(list(writers), len(writers)):
            found[kind], count = _window(load, port, writers[kind])
            made += count if kind == HERE else 0
        rounds.append(found)
    return made, rounds


def _window(load: Load, port: int, writer: Writer | None) -> tuple[Window, int]:
    """Return what requests took, and how many updates were made meanwhile."""
    began = time.monotonic() + 0.05
    ends = began + WINDOW_SECONDS
    if writer is not None:
        writer.begin(began, ends)
    window = load(port, began, ends)
    return window, 0 if writer is None else writer.end()


def _at_a_rate(port: int, began: float, ends: float) -> Window:
    times: list[float] = []
    clients = [
        threading.Thread(target=_ask, args=(port, began + n / RATE, ends, times))
        for n in range(CLIENTS)
    ]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    return Window(len(times), statistics.median(times), quantile(times, 0.99), max(times))


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


def _under_wrk(port: int, began: float, ends: float) -> Window:
    time.sleep(max(0.0, began - time.monotonic()))
    lasts = f"-d{ends - began:.0f}s"
    address = f"http://127.0.0.1:{port}/"
    command = ["wrk", "-t1", f"-c{WRK_CLIENTS}", lasts, "--latency", "-s", WRK_REPORT, address]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    requests, failed, *times_us = map(float, done.stdout.splitlines()[-1].split())
    assert not failed, done.stdout
    return Window(int(requests), *(time_us / 1000 for time_us in times_us))


LOADS: Mapping[str, Load] = {"wrk": _under_wrk, "rate": _at_a_rate}


def _cells(rounds: list[dict[str, Window]], kind: str) -> list[str]:
    windows = [found[kind] for found in rounds]
    ratios = [found[kind].p99_ms / found[NONE].p99_ms for found in rounds]
    low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return [
        f"{sum(window.requests for window in windows):,}",
        f"{statistics.median(window.p50_ms for window in windows):.2f}",
        f"{statistics.median(window.p99_ms for window in windows):.1f}",
        f"{max(window.longest_ms for window in windows):.0f}",
        f"{middle:.2f}",
        f"{low:.2f} to {high:.2f}",
    ]


if __name__ == "__main__":
    if sys.argv[1:2] == [WRITER]:
        _write(*sys.argv[2:])
    else:
        main()
