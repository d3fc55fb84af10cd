"""What requests take while 10,000 updates run beside them.

::

    python -m tests.bench.beside_updates [updates]

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
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from flask import Flask

from tests.bench.table import print_table, quantile
from tests.support import RedisServer, UwsgiServer, fresh_database, wait_until
from tests.support.uwsgi_server import Options
from tests.support.waffle_host import WITH_MULE
from uwsgi_waffle import WaffleConf

WORKERS = 4
SETTINGS = 20
#: Requests a second, of all clients.
RATE = 100.0
CLIENTS = 8
#: Updates a second.
UPDATE_RATE = 50.0
WINDOW_SECONDS = 4.0
UPDATES = 10_000
SOON_SECONDS = 20.0

NONE, ELSEWHERE, HERE = "none", "of another namespace", "of the workers' settings"
REQUEST = b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n"

Update = Callable[[int], object]


def main() -> None:
    """Print what requests take in each kind of window."""
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else UPDATES
    with (
        RedisServer() as redis_server,
        fresh_database("postgresql") as database_uri,
        _host(database_uri, redis_server) as host,
    ):
        updates: dict[str, Update | None] = {NONE: None}
        for kind, namespace in ((ELSEWHERE, "elsewhere"), (HERE, "default")):
            updates[kind] = _writer(database_uri, redis_server, host, namespace)
        made, rounds = _measure(host.port, updates, wanted)
    rows = [[kind, *_cells(rounds, kind)] for kind in updates]
    load = ", ".join(f"{figure:.0f}" for figure in os.getloadavg())
    print(  # noqa: T201
        f"\n{made:,} updates, {len(rounds)} rounds of 3 windows of {WINDOW_SECONDS:g} s, "
        f"{RATE:g} requests/s; load of the machine: {load}"
    )
    header = ("updates", "requests", "p50 ms", "p99 ms", "max ms", "p99 / none", "by round")
    print_table(header, rows)


@contextlib.contextmanager
def _host(database_uri: str, redis_server: RedisServer) -> Iterator[UwsgiServer]:
    application: Options = {"module": "tests.apps.elsewhere:app", "processes": WORKERS}
    server = UwsgiServer({**application, **WITH_MULE, "disable-logging": True})
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


def _writer(uri: str, redis_server: RedisServer, host: UwsgiServer, namespace: str) -> Update:
    """Return what changes one setting, as a process of another host does."""
    app = Flask("writer")
    app.config.update(
        WAFFLE_CONFS={f"S{n:03}": {"default": 0} for n in range(SETTINGS)},
        WAFFLE_DATABASE_URI=uri,
        WAFFLE_NAMESPACE=namespace,
        WAFFLE_REDIS_URL=redis_server.url,
        WAFFLE_SNAPSHOT_PATH=str(Path(host.directory, f"writer-{namespace}", "snapshot")),
        WAFFLE_MULTIPROC=True,
        WAFFLE_LISTENER="none",
    )
    waffle: WaffleConf[Any] = WaffleConf(app)
    return lambda number: waffle.update({"S000": number})


def _measure(
    port: int, updates: dict[str, Update | None], wanted: int
) -> tuple[int, list[dict[str, list[float]]]]:
    """Return how many updates were made that workers follow, and what each round took."""
    rounds: list[dict[str, list[float]]] = []
    made, number = 0, 0
    chosen = random.Random(1)  # noqa: S311  the same order each time
    _window(port, None, 0)  # to warm up
    while made < wanted:
        found: dict[str, list[float]] = {}
        for kind in chosen.sample(list(updates), len(updates)):
            number += 10**6
            found[kind], count = _window(port, updates[kind], number)
            made += count if kind == HERE else 0
        rounds.append(found)
    return made, rounds


def _window(port: int, update: Update | None, number: int) -> tuple[list[float], int]:
    """Return the milliseconds that each request took, and how many updates were made."""
    times: list[float] = []
    began = time.monotonic() + 0.05
    ends = began + WINDOW_SECONDS
    clients = [
        threading.Thread(target=_ask, args=(port, began + n / RATE, ends, times))
        for n in range(CLIENTS)
    ]
    for client in clients:
        client.start()
    count = 0
    if update is not None:
        due = began
        while due < ends:
            time.sleep(max(0.0, due - time.monotonic()))
            update(number + count)
            count += 1
            due = max(due + 1 / UPDATE_RATE, time.monotonic() - 1)
            if time.monotonic() > ends:
                break
    for client in clients:
        client.join()
    return times, count


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
    main()
