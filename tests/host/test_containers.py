"""Processes of several containers that share a host snapshot: a pid means another one in each."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.host.states import at, record
from tests.support import require, wait_until
from tests.support.waiting import SOON_SECONDS
from uwsgi_waffle.bus.fleet import this_host
from uwsgi_waffle.host.records import HostSnapshot

PROGRAM = """
import sys, pathlib
from uwsgi_waffle.host.election import Election
from uwsgi_waffle.host.records import HostSnapshot
path = pathlib.Path(sys.argv[1])
host = HostSnapshot(path)
host.register("worker", worker=1, master=1, follows=True)
print("listening" if Election(host, 1).win() else "waiting", flush=True)
sys.stdin.read()
"""


#: Starts where the database was emptied, as a container does that has failed and comes again.
STARTS_EMPTY = """
import sys, pathlib
from uwsgi_waffle.host.records import HostSnapshot
from uwsgi_waffle.values.snapshot import Record
print(HostSnapshot(pathlib.Path(sys.argv[1])).publish(Record(), at_start=True), flush=True)
"""

#: A worker of a uWSGI that runs so many.
WORKER = """
import sys, pathlib
from uwsgi_waffle.host.records import HostSnapshot
host = HostSnapshot(pathlib.Path(sys.argv[1]))
host.register("worker", worker=1, master=1, follows=True)
host.slots.record_expected_workers(int(sys.argv[2]))
print("listed", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def container(path: Path, program: str = PROGRAM, *more: str) -> Iterator[subprocess.Popen[str]]:
    """Run a process in a pid namespace of its own, where it has a low pid."""
    unshare = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    process = subprocess.Popen(
        [*unshare, sys.executable, "-c", program, str(path), *more],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        process.wait(SOON_SECONDS)
        process.stdout.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    can_unshare = os.geteuid() == 0 and shutil.which("unshare")
    allowed = (
        can_unshare and subprocess.run(["unshare", "--pid", "true"], check=False).returncode == 0  # noqa: S607
    )
    require(allowed, "the right to make pid namespaces")
    return tmp_path / "snapshot"


def test_processes_of_two_containers_are_listed_and_each_has_its_listener(path: Path) -> None:
    host = HostSnapshot(path)
    with container(path) as one, container(path) as other:
        for process in (one, other):
            assert line_of(process) == "listening"
        listed = host.slots.living()
        assert len(listed) == 2
        assert len({slot.pid for slot in listed}) == 1, "both have the same pid, each in its own"
        os.kill(one.pid, signal.SIGKILL)
        wait_until(
            lambda: len(host.slots.living()) == 1, SOON_SECONDS, "the killed one is not listed"
        )


def test_a_container_that_starts_on_an_emptied_database_leaves_what_another_one_serves(
    path: Path,
) -> None:
    """Both have the same pid, so the other one is no former self."""
    host = HostSnapshot(path)
    host.publish(record(1))
    with container(path) as one:
        assert line_of(one) == "listening"
        with container(path, STARTS_EMPTY) as other:
            assert line_of(other) == "None"
    assert host.position == at(1)


def test_workers_of_one_container_do_not_stand_for_those_of_another(path: Path) -> None:
    """The uWSGI of each has pid 1; of the third, one worker has not loaded the application."""
    host = HostSnapshot(path)
    with (
        container(path, WORKER, "1") as one,
        container(path, WORKER, "1") as two,
        container(path, WORKER, "2") as three,
    ):
        assert {line_of(process) for process in (one, two, three)} == {"listed"}
        assert {slot.master for slot in host.slots.living()} == {1}
        assert this_host(host, "here", 1.0).unlisted == 1


def line_of(process: subprocess.Popen[str]) -> str:
    """Return the next line that a container prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()
