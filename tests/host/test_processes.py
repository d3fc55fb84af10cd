"""The list of processes in the host snapshot."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import wait_until
from uwsgi_waffle.host import HostSnapshot, ListenerState, layout
from uwsgi_waffle.host.processes import start_ticks

#: Lists itself, says so, and lives until it is told to end.
MEMBER = """
import pathlib, sys
from uwsgi_waffle.host import HostSnapshot
host = HostSnapshot(pathlib.Path(sys.argv[1]))
host.register("worker", 3, 77, follows=True)
host.slots.record("00000000000000aa", 42)
print("listed", flush=True)
sys.stdin.read()
"""


def test_a_process_is_listed_until_it_dies(tmp_path: Path) -> None:
    """What it says of itself can be read by others; kill -9 takes it out at once."""
    path = tmp_path / "snapshot"
    host = HostSnapshot(path)
    member = subprocess.Popen(
        [sys.executable, "-c", MEMBER, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert member.stdout is not None
        assert member.stdout.readline() == "listed\n"
        (found,) = host.slots.living()
        assert (found.pid, found.role, found.worker, found.master) == (member.pid, "worker", 3, 77)
        assert (found.lineage, found.revision, found.follows) == ("00000000000000aa", 42, True)
        assert found.listener == ListenerState()
    finally:
        member.kill()
        member.communicate()
    assert host.slots.living() == []


def test_a_reused_pid_is_another_process(tmp_path: Path) -> None:
    """A slot whose pid lives again, but began at another time, counts as free."""
    host = HostSnapshot(tmp_path / "snapshot")
    host.register("worker", 1, 2, follows=True)
    started_word = layout.SLOTS_OFFSET // layout.WORD_BYTES + 1
    assert host.words[started_word] == start_ticks(os.getpid())
    host.words[started_word] -= 1
    assert host.slots.living() == []


def test_a_forked_child_does_not_write_its_parents_slot(tmp_path: Path) -> None:
    host = HostSnapshot(tmp_path / "snapshot")
    host.register("process", follows=True)
    host.slots.record("00000000000000aa", 1)
    program = f"""
import os, pathlib
from uwsgi_waffle.host import HostSnapshot
host = HostSnapshot(pathlib.Path({str(host.path)!r}))
host.register("process", follows=True)
host.slots.record("00000000000000aa", 5)
pid = os.fork()
if not pid:
    host.slots.record("00000000000000aa", 9)
    host.slots.release()
    os._exit(0)
os.waitpid(pid, 0)
print([p.revision for p in host.slots.living() if p.pid == os.getpid()])
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stdout == "[5]\n"


def test_registering_again_takes_the_same_slot(tmp_path: Path) -> None:
    host = HostSnapshot(tmp_path / "snapshot")
    host.register("process", follows=False)
    host.register("worker", 2, 7, follows=True)
    (found,) = host.slots.living()
    assert (found.role, found.worker) == ("worker", 2)
    host.slots.release()
    assert host.slots.living() == []


def test_one_process_too_many_is_said_and_serves_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = HostSnapshot(tmp_path / "snapshot")
    monkeypatch.setattr(layout, "SLOT_COUNT", 1)
    sleeper = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        first = layout.SLOTS_OFFSET // layout.WORD_BYTES
        wait_until(lambda: start_ticks(sleeper.pid), 10, "the other process runs")
        host.words[first], host.words[first + 1] = sleeper.pid, start_ticks(sleeper.pid)
        host.register("process", follows=True)
        assert "does not show in status" in caplog.text
        host.slots.record("00000000000000aa", 3)
        assert host.words[first] == sleeper.pid
    finally:
        sleeper.kill()
        sleeper.communicate()


def test_registering_again_takes_the_same_slot_though_one_before_it_is_free(
    tmp_path: Path,
) -> None:
    """A process is listed once, whoever came and went before it."""
    host = HostSnapshot(tmp_path / "snapshot")
    first = layout.SLOTS_OFFSET // layout.WORD_BYTES
    host.words[first], host.words[first + 1] = 1, start_ticks(1)
    host.register("process", follows=True)
    assert host.words[first + layout.SLOT_WORDS] == os.getpid()
    host.words[first] = 0
    host.register("process", follows=True)
    assert [process.pid for process in host.slots.living()] == [os.getpid()]


@pytest.mark.parametrize("error", ["", "Connection refused", "ü" * 400])
def test_what_a_listener_says_of_itself_can_be_read(error: str, tmp_path: Path) -> None:
    host = HostSnapshot(tmp_path / "snapshot")
    host.register("process", follows=True)
    host.slots.record_listener("polling", error)
    (found,) = host.slots.living()
    assert found.listener.state == "polling"
    assert found.listener.since > 0
    assert error.startswith(found.listener.error.rstrip("\ufffd"))
    host.slots.record_listener("live")
    assert host.slots.living()[0].listener.error == ""
