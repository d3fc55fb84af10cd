"""The record in the host snapshot: whole or not at all, and never an older one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.support import wait_until
from uwsgi_waffle.host import HostSnapshot, layout
from uwsgi_waffle.values.snapshot import Record

LINEAGE = "00000000000000aa"
OTHER = "00000000000000bb"

#: Publishes records of one lineage as fast as it can; every row of one says its revision.
WRITER = """
import sys, pathlib
from uwsgi_waffle.host import HostSnapshot
from uwsgi_waffle.values.snapshot import Record
host = HostSnapshot(pathlib.Path(sys.argv[1]))
while True:
    revision = host.position[1] + 1
    rows = {f"S{n}": str(revision) for n in range(revision % 200)}
    host.publish(Record("00000000000000aa", revision, rows))
"""

#: Reads as fast as it can; ends with what it found wrong as soon as something is.
READER = """
import sys, pathlib
from uwsgi_waffle.host import HostSnapshot
host = HostSnapshot(pathlib.Path(sys.argv[1]))
last = reads = 0
while True:
    found = host.read()
    if found is None:
        continue
    record = found[1]
    values = set(record.rows.values())
    if values - {str(record.revision)} or len(record.rows) != record.revision % 200:
        sys.exit(f"a mix: {record}")
    if record.revision < last:
        sys.exit(f"back from {last} to {record.revision}")
    last = record.revision
    reads += 1
    if reads % 1000 == 0:
        print(reads, flush=True)
"""


def start(program: str, path: Path) -> subprocess.Popen[str]:
    """Start a Python program on the file."""
    return subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True
    )


def has_reached(host: HostSnapshot, revision: int) -> bool:
    """Return whether the record is of that revision or a later one."""
    return host.position[1] >= revision


def end(process: subprocess.Popen[str]) -> None:
    """End a process, however it is."""
    process.kill()
    process.communicate()


def test_writers_killed_at_any_point_leave_a_whole_record(tmp_path: Path) -> None:
    """Writers die by SIGKILL while readers read: no reader sees a mix, or goes back."""
    host = HostSnapshot(tmp_path / "snapshot")
    readers = [start(READER, host.path) for _ in range(2)]

    @settings(max_examples=12, deadline=None, database=None)
    @given(seconds=st.floats(0, 0.02))
    def kill_writers_after(seconds: float) -> None:
        writers = [start(WRITER, host.path) for _ in range(2)]
        try:
            enough = host.position[1] + 20
            wait_until(partial(has_reached, host, enough), 30, "the writers write")
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                host.read()
        finally:
            for writer in writers:
                end(writer)
        found = host.read()
        assert found is not None, "a killed writer leaves a record that can be read"

    try:
        kill_writers_after()
        for reader in readers:
            assert reader.poll() is None, reader.communicate()[0]
            os.kill(reader.pid, signal.SIGSTOP)  # what it has printed is complete
            assert reader.stdout is not None
            assert reader.stdout.readline(), "the reader has read thousands of records"
    finally:
        for reader in readers:
            end(reader)


def test_a_writer_leaves_the_record_in_use_alone(tmp_path: Path) -> None:
    """So one that is killed while it writes, wherever that is, has spoilt nothing."""
    host = HostSnapshot(tmp_path / "snapshot")
    for revision in range(1, 4):
        host.publish(Record(LINEAGE, revision, {"A": str(revision)}))
        start = layout.area_offset(host.sequence)
        before = bytes(host.words.cast("B")[start : start + layout.AREA_BYTES])
        host.publish(Record(LINEAGE, revision + 1, {"A": "x" * 1000}))
        assert host.words.cast("B")[start : start + layout.AREA_BYTES] == before


def test_forked_children_exclude_each_other(tmp_path: Path) -> None:
    """Two children of one parent that opened the file never write at the same time."""
    path = tmp_path / "snapshot"
    host = HostSnapshot(path)
    host.publish(Record(LINEAGE, 1, {"A": "1"}))
    program = f"""
import os, pathlib
from uwsgi_waffle.host import HostSnapshot
from uwsgi_waffle.host.files import locked
path = pathlib.Path({str(path)!r})
host = HostSnapshot(path)
counter = pathlib.Path({str(tmp_path / "counter")!r})
counter.write_text("0")
children = []
for _ in range(2):
    pid = os.fork()
    if not pid:
        for _ in range(500):
            with locked(path):
                counter.write_text(str(int(counter.read_text()) + 1))
        os._exit(0)
    children.append(pid)
assert all(os.waitpid(pid, 0)[1] == 0 for pid in children)
print(counter.read_text())
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "1000"


@pytest.mark.parametrize("revision", [0, 6, 7])
def test_a_record_never_goes_back_within_a_lineage(revision: int, tmp_path: Path) -> None:
    host = HostSnapshot(tmp_path / "snapshot")
    assert host.publish(Record(LINEAGE, 7, {"A": "7"}))
    assert not host.publish(Record(LINEAGE, revision, {"A": "old"}))
    assert host.position == (LINEAGE, 7)


def test_another_lineage_wins_whatever_its_revision(tmp_path: Path) -> None:
    host = HostSnapshot(tmp_path / "snapshot")
    host.publish(Record(LINEAGE, 7, {"A": "7"}))
    assert host.publish(Record(OTHER, 1, {"A": "1"}))
    assert host.position == (OTHER, 1)


def test_rows_that_do_not_fit_are_left_to_sql_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    host = HostSnapshot(tmp_path / "snapshot")
    for revision in (1, 2):
        large = Record(LINEAGE, revision, {"A": json.dumps("x" * layout.ROOM_BYTES)})
        assert host.publish(large)
        found = host.read()
        assert found is not None
        assert found[1] == Record(LINEAGE, revision, None)
    assert len(caplog.records) == 1
    assert host.publish(Record(LINEAGE, 3, {"A": "3"}))
    found = host.read()
    assert found is not None
    assert found[1].rows == {"A": "3"}


def test_a_damaged_record_is_said_once_and_written_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """SQL is asked, and even the same revision mends the file."""
    host = HostSnapshot(tmp_path / "snapshot")
    record = Record(LINEAGE, 7, {"A": "7"})
    host.publish(record)
    first = layout.area_offset(host.sequence) + layout.AREA_HEADER_BYTES
    host.words.cast("B")[first] ^= 0xFF
    assert host.read() is None
    assert host.read() is None
    assert len(caplog.records) == 1
    assert host.publish(record)
    found = host.read()
    assert found is not None
    assert found[1] == record


rows = st.dictionaries(st.from_regex(r"[A-Z]{1,4}", fullmatch=True), st.text(max_size=30))
records = st.builds(
    Record, st.sampled_from([LINEAGE, OTHER]), st.integers(1, 2**63), rows | st.none()
)


@given(record=records)
def test_any_record_comes_back_as_it_was(record: Record) -> None:
    with tempfile.TemporaryDirectory() as directory:
        host = HostSnapshot(Path(directory) / "snapshot")
        assert host.publish(record)
        found = HostSnapshot(Path(directory) / "snapshot").read()
        assert found is not None
        assert found[1] == record


class Model(RuleBasedStateMachine):
    """Any sequence of publishing, damaging and opening again, beside what should be there."""

    @initialize()
    def begin(self) -> None:
        """Start with an empty file."""
        self.directory = tempfile.TemporaryDirectory()
        self.path = Path(self.directory.name) / "snapshot"
        self.host = HostSnapshot(self.path)
        self.expected: Record | None = None

    @rule(record=records)
    def publish(self, record: Record) -> None:
        """Publish a record, which is taken unless it is older."""
        present = self.expected
        newer = present is None or record.supersedes(present.lineage, present.revision)
        assert self.host.publish(record) == newer
        if newer:
            self.expected = record

    @rule(where=st.integers(0, layout.AREA_BYTES - 1), bits=st.integers(1, 255))
    def damage_the_area_not_in_use(self, where: int, bits: int) -> None:
        """Leave what a writer that was killed may leave."""
        idle = layout.area_offset(self.host.sequence + 1)
        self.host.words.cast("B")[idle + where] ^= bits

    @rule(where=st.integers(0, layout.AREA_HEADER_BYTES - 1), bits=st.integers(1, 255))
    def damage_the_record(self, where: int, bits: int) -> None:
        """Damage what is in use: it is not believed any more."""
        if self.host.sequence:
            used = layout.area_offset(self.host.sequence)
            self.host.words.cast("B")[used + where] ^= bits
            self.expected = None

    @rule(number=st.integers(0, layout.WORD_MAX))
    def damage_the_number(self, number: int) -> None:
        """Damage what says which record is in use: no other one is taken for it."""
        if self.host.sequence not in (number, 0):
            self.host.words[layout.SEQUENCE_WORD] = number
            self.expected = None

    @rule(length=st.integers(0, layout.FILE_BYTES - 1))
    def cut_short(self, length: int) -> None:
        """Lose the end of the file, and go on; what was lost is lost."""
        os.truncate(self.path, length)
        assert self.host.verify()
        found = self.host.read()
        assert found is None or found[1] == self.expected
        self.expected = found[1] if found else None

    @rule()
    def delete(self) -> None:
        """Lose the file."""
        self.path.unlink()
        assert self.host.verify()
        self.expected = None

    @rule()
    def open_again(self) -> None:
        """Go on as another process would."""
        self.host = HostSnapshot(self.path)

    @invariant()
    def reads_what_is_expected(self) -> None:
        """The record is the expected one, or none."""
        if hasattr(self, "host"):
            found = self.host.read()
            assert (found[1] if found else None) == self.expected

    def teardown(self) -> None:
        """Take the file away."""
        if hasattr(self, "directory"):
            self.directory.cleanup()


Model.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
test_the_file_agrees_with_a_model = Model.TestCase
