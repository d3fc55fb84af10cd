"""The locks of the host snapshot: one writer at a time, and nobody waits for ever."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import require
from uwsgi_waffle.host import HostSnapshot, files
from uwsgi_waffle.host.files import locked
from uwsgi_waffle.values.snapshot import Record

LINEAGE = "00000000000000aa"

#: Takes a lock, says so, and holds it until it is told to end.
HOLDER = """
import pathlib, sys
from uwsgi_waffle.host.files import locked
with locked(pathlib.Path(sys.argv[1]), sys.argv[2]) as held:
    print(held, flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_by_another(path: Path, suffix: str = ".lock") -> Iterator[subprocess.Popen[str]]:
    """Have another process hold a lock."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path), suffix],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"
        yield holder
    finally:
        holder.kill()
        holder.communicate()


def test_a_child_forked_under_the_lock_does_not_keep_it(tmp_path: Path) -> None:
    """A fork by another thread copies the descriptor; the lock ends with its holder's work."""
    path = tmp_path / "snapshot"
    reading, writing = os.pipe()
    with locked(path) as held:
        assert held
        child = os.fork()
        if not child:
            os.read(reading, 1)
            os._exit(0)
    try:
        with locked(path, wait_seconds=0) as again:
            assert again
    finally:
        os.write(writing, b"x")
        os.waitpid(child, 0)
        os.close(reading)
        os.close(writing)


def test_a_killed_holder_frees_its_lock(tmp_path: Path) -> None:
    path = tmp_path / "snapshot"
    with held_by_another(path) as holder:
        with locked(path, wait_seconds=0) as held:
            assert not held
        holder.kill()
        with locked(path, wait_seconds=10) as held:
            assert held


def test_a_stopped_holder_makes_others_do_without_the_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They say so once, serve all the same, and come back to the file when it is free again."""
    monkeypatch.setattr(files, "LOCK_SECONDS", 0.1)
    path = tmp_path / "snapshot"
    host = HostSnapshot(path)
    host.register("process", follows=True)
    other = HostSnapshot(path)
    assert host.publish(Record(LINEAGE, 1, {"A": "1"}))
    with held_by_another(path) as holder:
        holder.send_signal(signal.SIGSTOP)
        assert host.publish(Record(LINEAGE, 2, {"A": "2"}))
        assert not host.is_shared
        assert host.position == (LINEAGE, 2)
        assert not host.verify()
        assert other.position() == (LINEAGE, 1), "what the others use is left as it is"
    assert len(caplog.records) == 1
    assert "cannot be used" in caplog.text
    assert host.verify()
    assert host.is_shared
    assert [process.pid for process in host.slots.living()] == [os.getpid()]


@pytest.mark.parametrize("suffix", [".lock", ".reader"])
def test_a_lock_of_another_user_is_not_waited_for(suffix: str, tmp_path: Path) -> None:
    """In a sticky directory anybody could make the lock first, and keep it for ever."""
    require(os.geteuid() == 0, "the right to give a file away (root)")
    path = tmp_path / "snapshot"
    lock = path.with_name(path.name + suffix)
    lock.touch(mode=0o600)
    os.chown(lock, 65534, 65534)
    with pytest.raises(PermissionError, match="belongs to user 65534"), locked(path, suffix):
        pass
    assert HostSnapshot(path).is_shared == (suffix == ".reader")


def test_who_cannot_tell_whether_others_read_sql_reads_it(tmp_path: Path) -> None:
    host = HostSnapshot(tmp_path / "snapshot")
    (tmp_path / "snapshot.reader").mkdir()
    with host.only_reader(wait_seconds=0) as mine:
        assert mine
    with host.asking(5.0) as mine:
        assert mine


def test_one_process_at_a_time_reads_sql_and_the_others_wait_no_longer_than_told(
    tmp_path: Path,
) -> None:
    host = HostSnapshot(tmp_path / "snapshot")
    with held_by_another(host.path, ".reader"):
        for wait_seconds in (0.0, 0.05):
            with host.only_reader(wait_seconds=wait_seconds) as mine:
                assert not mine
    with host.only_reader(wait_seconds=10) as mine:
        assert mine


def test_what_goes_wrong_under_the_readers_lock_comes_out_as_it_is(tmp_path: Path) -> None:
    """An OSError of whoever reads SQL is not taken for one of the lock."""
    host = HostSnapshot(tmp_path / "snapshot")
    with pytest.raises(NotADirectoryError), host.only_reader(wait_seconds=0):
        (host.path / "below a file").touch()
    with host.only_reader(wait_seconds=0) as mine:
        assert mine, "the lock was given back"


def test_only_one_process_asks_in_each_interval(tmp_path: Path) -> None:
    host, other = (HostSnapshot(tmp_path / "snapshot") for _ in range(2))
    with host.asking(3600) as mine, other.asking(3600) as theirs:
        assert (mine, theirs) == (True, False)
    with other.asking(3600) as theirs:
        assert not theirs
    with other.asking(0) as theirs:
        assert theirs


def test_greenlets_of_one_process_do_not_lock_each_other_out() -> None:
    """A greenlet that waits for the lock lets the one that holds it go on."""
    program = """
from gevent import monkey
monkey.patch_all()
import gevent, pathlib, sys, tempfile
from uwsgi_waffle.host.files import locked

with tempfile.TemporaryDirectory() as directory:
    path = pathlib.Path(directory) / "snapshot"
    order = []

    def one(number):
        with locked(path) as held:
            order.append((number, held))
            gevent.sleep(0.05)
            order.append((number, held))

    gevent.joinall([gevent.spawn(one, number) for number in range(3)], raise_error=True)
    print(order)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == str([(n, True) for n in (0, 0, 1, 1, 2, 2)])
