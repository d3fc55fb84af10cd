"""What `wait` and `status` cost at 10 to 1,000 hosts: commands of Redis, bytes and milliseconds.

Whole calls, of a fleet that serves the revision: with the hosts that are registered in SQL, and all
that is made of what was read. ::

    python -m tests.bench.looks
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.bench.table import print_table
from tests.conftest import Apps, state_of
from tests.support import RedisServer
from uwsgi_waffle import HostStatus
from uwsgi_waffle.bus import reports
from uwsgi_waffle.host.processes import ListenerState, ProcessSlot
from uwsgi_waffle.values.position import Position

HOSTS = (10, 100, 1_000)
WORKERS = 8
LOOKS = 30


def main() -> None:
    """Print a line for each number of hosts, for `wait` and for `status`."""
    vars(reports)["SILENT_SECONDS"] = 3600.0  # they report once
    rows = []
    with RedisServer() as redis_server, tempfile.TemporaryDirectory() as directory:
        for count in HOSTS:
            url = f"sqlite:///{directory}/{count}.db"
            with contextlib.closing(Apps(Path(directory), url)) as apps:
                app, waffle = apps(
                    WAFFLE_CONFS={"SIZE": {"default": 1}},
                    WAFFLE_MULTIPROC=True,
                    WAFFLE_LISTENER="none",
                    WAFFLE_REDIS_URL=redis_server.url,
                    WAFFLE_SNAPSHOT_PATH=f"{directory}/{count}.snapshot",
                )
                waffle.update({"SIZE": 2})
                state = state_of(app)
                hosts = [_host(number, state.host.position) for number in range(count)]
                for host in hosts:
                    state.registry.register(host.id, host.name)
                    state.reports.put(host)
                looks: dict[str, Callable[[], object]] = {
                    "wait": lambda waffle=waffle: waffle.wait(1, timeout=0),  # type: ignore[misc]
                    "status": waffle.status,
                }
                for name, look in looks.items():
                    rows.append([str(count), name, *_look(redis_server, look)])
    header = ("hosts", "what", "commands", "KiB", "ms (median)", "ms (most)")
    print_table("looks", header, rows)


def _host(number: int, position: Position) -> HostStatus:
    """Return a host with a mule and eight workers, all of them at the position."""
    live, absent = ListenerState("live", time.time()), ListenerState()
    mule = ProcessSlot(100, "mule", 1, 99, position, time.time(), follows=True, listener=live)
    workers = [
        ProcessSlot(101 + n, "worker", n, 99, position, time.time(), follows=True, listener=absent)
        for n in range(1, WORKERS + 1)
    ]
    processes = (mule, *workers)
    return HostStatus(
        id=f"{number:016x}",
        name=f"host-{number}",
        position=position,
        listener=live,
        following=len(processes),
        served=len(processes),
        processes=processes,
    )


def _look(redis_server: RedisServer, look: Callable[[], object]) -> list[str]:
    """Return commands, KiB and milliseconds of one call."""
    took = []
    with redis_server.client() as client:
        before = client.info("stats")
        for _ in range(LOOKS):
            began = time.perf_counter()
            look()
            took.append((time.perf_counter() - began) * 1000)
        after = client.info("stats")
    commands = (after["total_commands_processed"] - before["total_commands_processed"] - 1) / LOOKS
    sent = (after["total_net_output_bytes"] - before["total_net_output_bytes"]) / LOOKS
    figures = (statistics.median(took), max(took))
    return [f"{commands:.0f}", f"{sent / 1024:.0f}", *(f"{figure:.1f}" for figure in figures)]


if __name__ == "__main__":
    main()
