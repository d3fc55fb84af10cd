"""The record in the host snapshot: whole or not at all, and never an older one."""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.host.states import OTHER, at, damage, held_by, record, used_area
from tests.support import wait_until
from tests.support.programs import Program, output_of
from tests.support.soak import times
from tests.support.waiting import SOON_SECONDS
from uwsgi_waffle.host import layout
from uwsgi_waffle.host.records import HostSnapshot
from uwsgi_waffle.values.position import NOWHERE
from uwsgi_waffle.values.snapshot import Record

#: Publishes records of one lineage as fast as it can; every row of one holds its revision.
WRITER = """
import sys, pathlib
from tests.host.states import record
from uwsgi_waffle.host.records import HostSnapshot
host = HostSnapshot(pathlib.Path(sys.argv[1]))
while True:
    revision = host.position.revision + 1
    host.publish(record(revision, {f"S{n}": str(revision) for n in range(revision % 200)}))
"""

#: Reads as fast as it can; ends with an error as soon as it finds one.
READER = """
import sys, pathlib
from uwsgi_waffle.host.records import HostSnapshot
host = HostSnapshot(pathlib.Path(sys.argv[1]))
last = reads = 0
while True:
    found = host.read()
    if found is None:
        continue
    revision, rows = found[1].revision, found[1].rows
    if set(rows.values()) - {str(revision)} or len(rows) != revision % 200:
        sys.exit(f"a mix: {found}")
    if int(found[1].position.stamp, 16) != revision:
        sys.exit(f"another stamp: {found}")
    if revision < last:
        sys.exit(f"back from {last} to {revision}")
    last = revision
    reads += 1
    if reads % 1000 == 0:
        print(reads, flush=True)
"""


@pytest.fixture
def host(tmp_path: Path) -> HostSnapshot:
    return HostSnapshot(tmp_path / "snapshot")


def test_writers_killed_at_any_point_leave_a_whole_record(host: HostSnapshot) -> None:
    """Writers die by SIGKILL while readers read: no reader sees a mix, or goes back."""

    @settings(max_examples=times(6, 40), deadline=None, database=None)
    @given(seconds=st.floats(0, 0.02))
    def kill_writers_after(seconds: float) -> None:
        enough = host.position.revision + 20
        with Program(WRITER, host.path), Program(WRITER, host.path):
            wait_until(
                lambda: host.position.revision >= enough, SOON_SECONDS, "the writers have written"
            )
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                host.read()
        assert host.read() is not None, "killed writers leave a record that can be read"

    with ExitStack() as stack:
        readers = [stack.enter_context(Program(READER, host.path)) for _ in range(2)]
        kill_writers_after()
        for reader in readers:
            assert reader.process.poll() is None, "it found no error"
            os.kill(reader.pid, signal.SIGSTOP)  # what it has printed is complete
            assert reader.read(), "it has read thousands of records"


def test_a_writer_leaves_the_record_in_use_alone(host: HostSnapshot) -> None:
    """So a writer that is killed at any point has spoilt nothing."""
    for revision in range(1, 4):
        host.publish(record(revision))
        start = used_area(host)
        before = bytes(host.words.cast("B")[start : start + layout.AREA_BYTES])
        host.publish(record(revision + 1, {"A": "x" * 1000}))
        assert host.words.cast("B")[start : start + layout.AREA_BYTES] == before


def test_forked_children_exclude_each_other(host: HostSnapshot, tmp_path: Path) -> None:
    """Two children of a process that has opened the file never write at the same time."""
    program = """
import os, pathlib, sys
from uwsgi_waffle.host.locks import locked
from uwsgi_waffle.host.records import HostSnapshot
path, counter, rounds = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[3])
host = HostSnapshot(path)
counter.write_text("0")
children = []
for _ in range(2):
    pid = os.fork()
    if not pid:
        for _ in range(rounds):
            with locked(path):
                counter.write_text(str(int(counter.read_text()) + 1))
        os._exit(0)
    children.append(pid)
assert all(os.waitpid(pid, 0)[1] == 0 for pid in children)
print(counter.read_text())
"""
    rounds = times(200, 5000)
    assert output_of(program, host.path, tmp_path / "counter", rounds) == str(2 * rounds)


@pytest.mark.parametrize(
    ("later", "is_taken"),
    [
        (record(0, stamp=0), False),
        (record(6), False),
        (record(7, {"A": "other"}), False),
        (record(7, stamp=8), True),  # SQL's state of that revision
        (record(8), True),
        (record(1, lineage=OTHER), True),
        (Record(), False),
    ],
)
def test_a_host_takes_a_record_that_supersedes_its_own(
    *, host: HostSnapshot, later: Record, is_taken: bool
) -> None:
    assert host.position == NOWHERE
    assert host.publish(record(7)) == host.sequence
    assert (host.publish(later) is not None) is is_taken
    assert held_by(host) == (later if is_taken else record(7))
    assert HostSnapshot(host.path).position == (later if is_taken else record(7)).position


def test_a_host_takes_the_record_of_an_emptied_database_only_alone_and_at_a_start(
    host: HostSnapshot,
) -> None:
    program = """
import sys, pathlib
from uwsgi_waffle.host.records import HostSnapshot
host = HostSnapshot(pathlib.Path(sys.argv[1]))
host.register("worker", 1, 7)
print("listed", flush=True)
sys.stdin.read()
"""
    host.publish(record(7))
    with Program(program, host.path) as other:
        assert other.read() == "listed"
        assert host.publish(Record(), at_start=True) is None
    assert host.publish(Record()) is None
    assert host.position == at(7)
    assert host.publish(Record(), at_start=True)
    assert host.position == NOWHERE


def test_settings_that_do_not_fit_are_not_published_which_is_logged_once(
    host: HostSnapshot, caplog: pytest.LogCaptureFixture
) -> None:
    """The last known settings stay, and later ones that fit are taken."""
    host.publish(record(1))
    for revision in (2, 3):
        large = record(revision, {"A": json.dumps("x" * layout.ROOM_BYTES)})
        assert host.publish(large) is None
    assert held_by(host) == record(1)
    assert len(caplog.records) == 1
    assert f"room for {layout.ROOM_BYTES}" in caplog.text
    assert host.publish(record(4))
    assert held_by(host) == record(4)


def test_a_damaged_record_is_logged_once_and_replaced(
    host: HostSnapshot, caplog: pytest.LogCaptureFixture
) -> None:
    """SQL is read, and even the same revision repairs the file."""
    host.publish(record(7))
    damage(host)
    assert host.read() is None
    assert host.read() is None
    assert len(caplog.records) == 1
    assert host.publish(record(7), since=host.sequence)
    assert held_by(host) == record(7)


def test_the_process_that_wrote_a_record_learns_that_another_one_found_it_damaged(
    host: HostSnapshot,
) -> None:
    """A listener that went by what it has written would find nothing to repair at its polls."""
    host.publish(record(7))
    other = HostSnapshot(host.path)
    damage(host)
    assert host.position == at(7)
    assert other.read() is None
    assert host.position == NOWHERE
    assert host.publish(record(7), since=host.sequence)
    assert held_by(other) == record(7)


@pytest.mark.parametrize("is_committed", [True, False], ids=["committed", "read from SQL"])
def test_a_damaged_record_is_not_replaced_by_an_earlier_one(
    host: HostSnapshot, *, is_committed: bool
) -> None:
    """It was committed, or read from SQL, before the damaged one, by a process that was slow."""
    host.publish(record(7))
    before = host.sequence
    host.publish(record(8))
    damage(host)
    slow = HostSnapshot(host.path)
    assert slow.publish(record(7), since=None if is_committed else before) is None
    assert host.read() is None, "each process asks SQL"
    assert host.publish(record(8), since=host.sequence)
    assert held_by(host) == record(8)


def test_keys_are_those_of_the_latest_record(host: HostSnapshot) -> None:
    assert host.keys == ()
    other = HostSnapshot(host.path)
    for revision, keys in enumerate((("one",), ("two", "one"), ("three", "two")), start=1):
        host.publish(replace(record(revision), keys=keys))
        assert host.keys == other.keys == keys
