"""Three hosts with several workers each: a change is everywhere, or what lacks it is named."""

from __future__ import annotations

import json
import os
import re
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import RedisServer, fresh_database, wait_until
from tests.support.command_line import flask_waffle
from tests.support.instance import BOOT, Instance
from tests.support.quick_start import Finished
from tests.support.soak import times
from tests.support.waiting import SOON_SECONDS
from uwsgi_waffle.bus.reports import SILENT_SECONDS

HOSTS = 3
WORKERS = times(3, 8)
#: The workers, and a mule on each host.
PROCESSES = HOSTS * (WORKERS + 1)
ALL = f"{PROCESSES} of {PROCESSES} processes on {HOSTS} hosts"


@dataclass
class Fleet:
    """Three hosts on one database and one Redis, which one of them reaches by a socket file."""

    hosts: list[Instance]
    redis_server: RedisServer
    socket: Path

    def run(self, *arguments: str) -> Finished:
        """Run a command on the first host."""
        return flask_waffle(self.hosts[0].environment, *arguments)

    def status(self) -> dict[str, Any]:
        """Return what `status --json` shows."""
        found: dict[str, Any] = json.loads(self.run("status", "--json").output)
        return found

    def wait_until_all_are_known(self) -> None:
        """Return when the status shows every process of every host."""
        wait_until(
            lambda: self.status()["fleet"]["total"] == PROCESSES, SOON_SECONDS, "all are known"
        )

    def host_of(self, pid: int) -> dict[str, Any]:
        """Return the part of the status about the host that a process runs on."""
        hosts: list[dict[str, Any]] = self.status()["fleet"]["hosts"]
        return next(h for h in hosts if any(p["pid"] == pid for p in h["processes"]))

    @contextmanager
    def cut_off(self) -> Iterator[None]:
        """Keep the last host from Redis: its connections are closed, and none can be made."""
        hidden = self.socket.with_name("hidden")
        self.socket.rename(hidden)
        try:
            with self.redis_server.client() as client:
                for entry in client.client_list():
                    if entry["addr"].startswith(str(self.socket)):
                        client.client_kill_filter(_id=entry["id"])
            yield
        finally:
            hidden.rename(self.socket)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Start the hosts, and wait until all of them are known."""
    socket = tmp_path_factory.mktemp("redis") / "sock"
    with ExitStack() as stack:
        redis_server = stack.enter_context(RedisServer(extra_options=["--unixsocket", str(socket)]))
        database_uri = stack.enter_context(fresh_database("postgresql"))
        urls = [redis_server.url] * (HOSTS - 1) + [f"unix://{socket}"]
        hosts: list[Instance] = []
        for url in urls:
            environment = {
                "WAFFLE_DATABASE_URI": database_uri,
                "WAFFLE_REDIS_URL": url,
                "WAFFLE_POLL_SECONDS": "1",
            }
            host = Instance(BOOT, workers=WORKERS, environment=environment)
            host.quick = bool(hosts)  # the doctor reads the command line of the first
            hosts.append(stack.enter_context(host))
        made = Fleet(hosts, redis_server, socket)
        made.wait_until_all_are_known()
        yield made


def test_set_shows_that_every_process_of_every_host_serves_the_revision(fleet: Fleet) -> None:
    """`set` ends with the number of all processes, workers and mules."""
    done = fleet.run("set", "S000=1", "--comment", "first")
    assert done.status == 0, done.errors
    last = done.output.splitlines()[-1]
    assert re.fullmatch(rf"revision 1: {ALL} in [\d.]+ m?s", last)
    assert all(host.values() == {1} for host in fleet.hosts)
    status = fleet.status()
    assert status["converged"]
    processes = [p for host in status["fleet"]["hosts"] for p in host["processes"]]
    assert Counter(p["role"] for p in processes) == {"worker": HOSTS * WORKERS, "mule": HOSTS}
    pids = {pid for host in fleet.hosts for pid in host.worker_pids()}
    assert pids <= {p["pid"] for p in processes}


def test_status_has_a_line_for_each_process_at_80_columns(fleet: Fleet) -> None:
    """Each process has one line, with its pid, and no line is wider than 80 columns."""
    lines = fleet.run("status").output.splitlines()
    assert max(map(len, lines)) <= 80
    for host in fleet.hosts:
        for pid in [*host.worker_pids(), *host.mule_pids()]:
            assert sum(bool(re.search(rf"pid {pid}\b", line)) for line in lines) == 1


def test_a_stopped_worker_is_named_and_the_command_fails(fleet: Fleet) -> None:
    """With a worker of another host stopped, `set` names its pid and exits 1, in one line."""
    pid = fleet.hosts[1].worker_pids()[2]
    label = fleet.host_of(pid)["label"]
    os.kill(pid, signal.SIGSTOP)
    try:
        done = fleet.run("set", "S000=2", "--timeout", "2")
        assert done.status == 1
        assert len(done.errors.splitlines()) == 1
        assert f"{PROCESSES - 1} of {PROCESSES} processes on 3 hosts" in done.errors
        assert f"(pid {pid}) on {label}" in done.errors
        assert fleet.run("wait", "--timeout", "0").status == 1
    finally:
        os.kill(pid, signal.SIGCONT)
    done = fleet.run("wait", "--timeout", str(SOON_SECONDS))
    assert done.status == 0, done.errors


def test_a_host_cut_off_from_redis_is_named_until_it_is_back(fleet: Fleet) -> None:
    """With a host's Redis cut off, `set` names the host; once it is back, `wait` succeeds."""
    cut = fleet.hosts[-1]
    found = fleet.host_of(cut.worker_pids()[0])
    label = found["label"]
    # All three run on one machine, so they have the same name.
    assert label == f"{found['name']}#{found['id'][:6]}"
    with fleet.cut_off():
        # Longer than a host may be silent.
        done = fleet.run("set", "S000=3", "--timeout", str(SILENT_SECONDS + 1))
        assert done.status == 1
        assert f"host {label}: silent since" in done.errors
        assert f"{PROCESSES - WORKERS - 1} of {PROCESSES} processes" in done.errors
        # What it serves is right all the same: it polls.
        cut.wait_until_serving(3)
        assert "silent since" in " ".join(fleet.run("status").output.split())
        # After a few failures in a row it says so in SQL.
        wait_until(
            lambda: "it cannot report to Redis" in " ".join(fleet.run("status").output.split()),
            SOON_SECONDS,
            "the host is known to be cut off",
        )
        doctor = json.loads(fleet.run("doctor", "--json").output)
        assert "host-silent" in {finding["code"] for finding in doctor["findings"]}
    done = fleet.run("wait", "--timeout", str(SOON_SECONDS))
    assert done.status == 0, done.errors
    assert ALL in done.output


def test_a_worker_that_died_is_not_waited_for(fleet: Fleet) -> None:
    """A killed worker leaves the fleet, its successor joins, and `set` is complete again."""
    pid = fleet.hosts[2].worker_pids()[0]
    os.kill(pid, signal.SIGKILL)
    wait_until(
        lambda: fleet.hosts[2].has_successor(pid), SOON_SECONDS, "another worker takes its place"
    )
    done = fleet.run("set", "S000=4", "--timeout", str(SOON_SECONDS))
    assert done.status == 0, done.errors
    fleet.wait_until_all_are_known()
    pids = {p["pid"] for h in fleet.status()["fleet"]["hosts"] for p in h["processes"]}
    assert pid not in pids
    assert set(fleet.hosts[2].worker_pids()) <= pids


def test_a_command_does_not_count_as_a_process(fleet: Fleet) -> None:
    """The process of the command line does not show, and leaves nothing behind."""
    assert len(fleet.status()["fleet"]["hosts"]) == HOSTS
    assert fleet.status()["fleet"]["total"] == PROCESSES


def test_the_doctor_finds_nothing_wrong_and_has_looked_at_the_servers_ini(fleet: Fleet) -> None:
    """In a healthy fleet nothing is wrong, the uWSGI of the host included."""
    done = fleet.run("doctor")
    assert done.status == 0, done.output
    assert str(fleet.hosts[0].directory / "uwsgi.ini") in done.output
    assert "wrong" not in done.output
