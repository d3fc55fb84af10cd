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

from tests.support import require, wait_until
from tests.support.waiting import SOON_SECONDS
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


@contextlib.contextmanager
def container(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a process in a pid namespace of its own, where it has a low pid."""
    unshare = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    process = subprocess.Popen(
        [*unshare, sys.executable, "-c", PROGRAM, str(path)],
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
            assert process.stdout is not None
            assert process.stdout.readline() == "listening\n"
        listed = host.slots.living()
        assert len(listed) == 2
        assert len({slot.pid for slot in listed}) == 1, "both have the same pid, each in its own"
        os.kill(one.pid, signal.SIGKILL)
        wait_until(
            lambda: len(host.slots.living()) == 1, SOON_SECONDS, "the killed one is not listed"
        )
