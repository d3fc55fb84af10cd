"""What a look of `wait` at all hosts costs: commands, bytes and milliseconds, at 10 to 1,000 hosts.

::

    python -m tests.bench.looks
"""

from __future__ import annotations

import secrets
import statistics
import tempfile
import time

from flask import Flask

from tests.bench.table import print_table
from tests.support import RedisServer
from uwsgi_waffle import HostStatus
from uwsgi_waffle.bus.client import SharedClient
from uwsgi_waffle.bus.reports import HostReports
from uwsgi_waffle.config import Config
from uwsgi_waffle.host.processes import ListenerState, ProcessSlot
from uwsgi_waffle.values.position import Position, new_stamp

HOSTS = (10, 100, 1_000)
WORKERS = 8
LOOKS = 30
KEYS = (secrets.token_hex(32),)


def main() -> None:
    """Print a line for each number of hosts, for a summary and for all processes."""
    rows = []
    with RedisServer() as redis_server, tempfile.TemporaryDirectory() as directory:
        for count in HOSTS:
            reports = _reports(redis_server, directory, f"looks-{count}")
            position = Position(secrets.token_hex(8), 42, new_stamp())
            for number in range(count):
                reports.put(_host(number, position))
            for in_full in (False, True):
                row = _look(redis_server, reports, position.lineage, in_full=in_full)
                rows.append([str(count), "all processes" if in_full else "summaries", *row])
    print_table(("hosts", "what", "commands", "KiB", "ms (median)", "ms (most)"), rows)


def _reports(redis_server: RedisServer, directory: str, channel: str) -> HostReports:
    app = Flask("looks", instance_path=directory)
    app.config["WAFFLE_REDIS_URL"] = redis_server.url
    app.config["WAFFLE_REDIS_CHANNEL"] = channel
    config = Config.from_app(app)
    return HostReports(config, SharedClient(config), lambda _lineage: KEYS)


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


def _look(
    redis_server: RedisServer, reports: HostReports, lineage: str, *, in_full: bool
) -> list[str]:
    """Return commands, KiB and milliseconds of one look."""
    took = []
    with redis_server.client() as client:
        before = client.info("stats")
        for _ in range(LOOKS):
            began = time.perf_counter()
            reports.read(lineage, in_full=in_full)
            took.append((time.perf_counter() - began) * 1000)
        after = client.info("stats")
    commands = (after["total_commands_processed"] - before["total_commands_processed"] - 1) / LOOKS
    sent = (after["total_net_output_bytes"] - before["total_net_output_bytes"]) / LOOKS
    figures = (statistics.median(took), max(took))
    return [f"{commands:.0f}", f"{sent / 1024:.0f}", *(f"{figure:.1f}" for figure in figures)]


if __name__ == "__main__":
    main()
