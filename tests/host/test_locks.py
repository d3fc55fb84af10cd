"""The locks of the host snapshot: one writer at a time, and no process waits for ever."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.host.others import held_by_another
from tests.host.states import at, record
from tests.support import require
from tests.support.programs import output_of
from tests.support.waiting import SOON_SECONDS
from uwsgi_waffle.bus.fleet import this_host
from uwsgi_waffle.host import areas, layout, locks
from uwsgi_waffle.host.locks import locked
from uwsgi_waffle.host.records import HostSnapshot
from uwsgi_waffle.host.turns import asking, only_reader


def test_a_child_forked_under_the_lock_does_not_keep_it(tmp_path: Path) -> None:
    """A fork in another thread copies the descriptor; the lock ends with its block."""
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


def test_a_killed_process_frees_its_lock(tmp_path: Path) -> None:
    path = tmp_path / "snapshot"
    with held_by_another(path) as holder:
        with locked(path, wait_seconds=0) as held:
            assert not held
        holder.kill()
        with locked(path, wait_seconds=SOON_SECONDS) as held:
            assert held


def test_where_a_stopped_process_holds_the_lock_every_process_is_sent_to_sql(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is logged once, the memory stays shared, and the next writer that has the lock ends it."""
    monkeypatch.setattr(locks, "LOCK_SECONDS", 0.1)
    host = HostSnapshot(tmp_path / "snapshot")
    host.register("process", follows=True)
    other = HostSnapshot(host.path)
    assert host.publish(record(1))
    seen = {other.sequence}
    with held_by_another(host.path) as holder:
        holder.process.send_signal(signal.SIGSTOP)
        for revision in (2, 3):
            assert host.publish(record(revision)) is None
            assert other.sequence not in seen, "the number that every request compares"
            assert other.read() is None
            seen.add(other.sequence)
            assert other.publish(record(revision), since=other.sequence) is None
            assert other.sequence in seen, "what the others know already sends none to SQL again"
        assert HostSnapshot(host.path).is_shared, "a process that starts needs no lock"
    assert host.is_shared
    assert [m for m in caplog.messages if "damaged" in m] == []
    assert caplog.text.count("Each process of this host asks SQL") == 2, "once in each process"
    assert "another process has held snapshot.lock for 0.1 s" in caplog.text
    assert other.publish(record(3), since=other.sequence)
    assert host.position == at(3)
    assert [process.pid for process in host.slots.living()] == [os.getpid()]


def test_where_a_stopped_process_holds_the_lock_each_process_is_listed_and_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a new file too. The count of the workers is that of a process that is listed."""
    monkeypatch.setattr(locks, "LOCK_SECONDS", 0.1)
    host = HostSnapshot(tmp_path / "snapshot")
    host.register("mule", 1, 77, follows=True)
    host.slots.record_expected_workers(2)
    host.path.unlink()
    HostSnapshot(host.path)  # a command makes another one
    with held_by_another(host.path) as holder:
        holder.process.send_signal(signal.SIGSTOP)
        assert host.verify()
        found = this_host(host, "here", 3.0)
    assert (found.following, found.unlisted) == (1, 2)


def test_an_earlier_record_does_not_end_the_doubt_about_a_later_one(tmp_path: Path) -> None:
    """It was read from SQL, or written, before another process sent all to SQL."""
    host = HostSnapshot(tmp_path / "snapshot")
    assert host.publish(record(1))
    before = host.sequence
    host.words[layout.SEQUENCE_WORD] = doubt = layout.IN_DOUBT | 5
    assert host.publish(record(2), since=before) is None
    assert host.sequence == doubt
    assert host.publish(record(2)) is None, "a commit that some may have missed when they looked"
    assert host.sequence not in (before, doubt)
    assert host.read() is None


def test_a_writer_that_was_stopped_leaves_the_doubt_that_it_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process gave up waiting for it while it was writing its record."""
    host = HostSnapshot(tmp_path / "snapshot")
    assert host.publish(record(1))
    doubt = layout.IN_DOUBT | 5

    def write_late(*_: Any) -> None:
        host.words[layout.SEQUENCE_WORD] = doubt

    monkeypatch.setattr(areas, "write", write_late)
    assert host.publish(record(2)) is None
    assert host.sequence == doubt


def test_a_writer_that_was_stopped_right_before_it_puts_its_record_in_use_does_not_end_the_doubt(
    tmp_path: Path,
) -> None:
    """It has just seen that there is none; the record that it does not know of may be later."""
    host, other = (HostSnapshot(tmp_path / "snapshot") for _ in range(2))
    assert host.publish(record(1))
    words = host.words

    class StoppedWords:
        """Words before whose store another process gives up waiting for the lock."""

        def __getitem__(self, index: Any) -> Any:
            return words[index]

        def __setitem__(self, index: Any, value: Any) -> None:
            if index == layout.SEQUENCE_WORD:
                other._doubt(record(3), None)  # noqa: SLF001  as `publish` does after a second
            words[index] = value

        def cast(self, kind: Any) -> Any:
            return words.cast(kind)

    host.words = StoppedWords()  # type: ignore[assignment]
    host.publish(record(2))
    assert other.read() is None, "each process asks SQL"
    assert other.publish(record(3), since=other.sequence)
    assert other.position == at(3)


def test_without_a_free_descriptor_the_others_are_sent_to_sql(tmp_path: Path) -> None:
    host, other = (HostSnapshot(tmp_path / "snapshot") for _ in range(2))
    assert host.publish(record(1))
    seen = other.sequence
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        assert host.publish(record(2)) is None
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert host.is_shared
    assert other.sequence != seen
    assert host.publish(record(2), since=host.sequence)
    assert other.position == at(2)


@pytest.mark.parametrize("suffix", [".lock", ".reader", ".processes"])
def test_a_lock_file_of_another_user_is_refused(
    suffix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In a sticky directory any user could make the file first, and hold its locks for ever."""
    require(os.geteuid() == 0, "the right to give a file away (root)")
    path = tmp_path / "snapshot"
    lock = path.with_name(path.name + suffix)
    lock.touch(mode=0o666)
    os.chown(lock, 65534, 65534)
    if suffix != ".processes":
        with pytest.raises(PermissionError, match="belongs to user 65534"), locked(path, suffix):
            pass
    host = HostSnapshot(path)
    host.register("process", follows=True)
    assert host.is_shared == (suffix == ".reader")
    if suffix != ".reader":
        assert not host.verify()
        assert len(caplog.records) == 1
        assert f"snapshot{suffix} belongs to user 65534" in caplog.text


def test_a_process_that_cannot_open_the_readers_lock_reads_sql(tmp_path: Path) -> None:
    host = HostSnapshot(tmp_path / "snapshot")
    (tmp_path / "snapshot.reader").mkdir()
    with only_reader(host, wait_seconds=0) as is_mine:
        assert is_mine
    with asking(host, 5.0) as is_mine:
        assert is_mine


def test_one_process_at_a_time_reads_sql_and_others_wait_for_a_limited_time(
    tmp_path: Path,
) -> None:
    host = HostSnapshot(tmp_path / "snapshot")
    with held_by_another(host.path, ".reader"):
        for wait_seconds in (0.0, 0.05):
            with only_reader(host, wait_seconds=wait_seconds) as is_mine:
                assert not is_mine
    with only_reader(host, wait_seconds=SOON_SECONDS) as is_mine:
        assert is_mine


def test_an_error_under_the_readers_lock_is_raised_as_it_is(tmp_path: Path) -> None:
    """An OSError of the read is not mistaken for one of the lock."""
    host = HostSnapshot(tmp_path / "snapshot")
    with pytest.raises(NotADirectoryError), only_reader(host, wait_seconds=0):
        (host.path / "below a file").touch()
    with only_reader(host, wait_seconds=0) as is_mine:
        assert is_mine, "the lock is free again"


def test_only_one_process_asks_in_each_interval(tmp_path: Path) -> None:
    host, other = (HostSnapshot(tmp_path / "snapshot") for _ in range(2))
    with asking(host, 3600) as is_mine, asking(other, 3600) as is_theirs:
        assert (is_mine, is_theirs) == (True, False)
    with asking(other, 3600) as is_theirs:
        assert not is_theirs
    with asking(other, 0) as is_theirs:
        assert is_theirs


def test_greenlets_of_one_process_do_not_lock_each_other_out() -> None:
    """A greenlet that waits for the lock lets the one that holds it run."""
    program = """
from gevent import monkey
monkey.patch_all()
import gevent, pathlib, sys, tempfile
from uwsgi_waffle.host.locks import locked

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
    assert output_of(program) == str([(n, True) for n in (0, 0, 1, 1, 2, 2)])
