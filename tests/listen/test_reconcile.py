"""Bringing the host snapshot up to SQL: as seldom as can be, and never back."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.listening_host import Statements, Writer, config_of
from uwsgi_waffle import reconcile
from uwsgi_waffle.errors import StoreUnavailable
from uwsgi_waffle.host import HostSnapshot, layout
from uwsgi_waffle.host.files import locked
from uwsgi_waffle.listen.reconcile import Reconciler
from uwsgi_waffle.sql.store import Store

LATER = "UPDATE waffle_namespace SET revision = revision + 10"
EARLIER = "UPDATE waffle_namespace SET revision = 1"
ELSEWHERE = "UPDATE waffle_namespace SET lineage = '00000000000000bb', revision = 1"


class Process:
    """What a process of this host needs to look at SQL."""

    def __init__(self, database: Path, directory: Path) -> None:
        # A lock that is held makes SQLite wait, but not for long here.
        self.store = Store(config_of(f"sqlite:///{database}?timeout=0.1"))
        self.statements = Statements(self.store)
        self.host = HostSnapshot(directory / "snapshot")
        self.reconciler = Reconciler(self.store, self.host, 5.0)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Give the file of a database that is not there yet."""
    return tmp_path / "waffle.db"


@pytest.fixture
def writer(database: Path) -> Iterator[Writer]:
    """Give a host that has written a first revision."""
    made = Writer(config_of(f"sqlite:///{database}"))
    made.write()
    with contextlib.closing(made.store.database):
        yield made


@pytest.fixture
def processes(database: Path, tmp_path: Path) -> Iterator[list[Process]]:
    """Give processes of one host."""
    made = [Process(database, tmp_path) for _ in range(8)]
    yield made
    for process in made:
        process.store.database.close()


def change(database: Path, statement: str) -> None:
    """Change the database behind everybody's back."""
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(statement)


def read_by(processes: list[Process]) -> int:
    """Return how often all of the processes together have read all rows."""
    return sum(process.statements.reads for process in processes)


def test_one_process_of_a_host_reads_what_was_announced_to_all(
    writer: Writer, processes: list[Process]
) -> None:
    """At once, from as many threads: the rest see that the host has it."""
    with ThreadPoolExecutor(len(processes)) as pool:
        for count in range(1, 21):
            record = writer.write()
            wanted = record.lineage, record.revision
            found = list(pool.map(lambda p: p.reconciler.reconcile(wanted), processes))  # noqa: B023
            assert [one for one in found if one is not None] == [record]
            assert read_by(processes) == count
            assert all(process.host.position == wanted for process in processes)


def test_one_process_of_a_host_reads_what_all_of_them_find_by_polling(
    writer: Writer, processes: list[Process]
) -> None:
    """Where Redis is away, each looks at the revision for itself, and one reads the rows."""
    with ThreadPoolExecutor(len(processes)) as pool:
        for count in range(1, 21):
            writer.write()
            list(pool.map(lambda process: process.reconciler.poll(), processes))
            assert read_by(processes) == count


def test_a_poll_that_finds_nothing_new_reads_no_rows(
    writer: Writer, processes: list[Process]
) -> None:
    process = processes[0]
    writer.write()
    assert process.reconciler.poll()
    process.statements.seen.clear()
    assert not process.reconciler.poll()
    assert len(process.statements.seen) == 1
    assert process.statements.reads == 0


def test_a_reader_that_is_stuck_is_not_waited_for_long(
    writer: Writer, processes: list[Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile, "WAIT_FOR_READER_SECONDS", 0.05)
    record = writer.write()
    with locked(processes[0].host.path, ".reader"):
        assert processes[0].reconciler.reconcile((record.lineage, record.revision)) == record


def test_the_reader_that_is_killed_leaves_its_turn_to_the_next(processes: list[Process]) -> None:
    process = processes[0]
    program = f"""
import pathlib, sys
from uwsgi_waffle.host import HostSnapshot
with HostSnapshot(pathlib.Path({str(process.host.path)!r})).only_reader(wait_seconds=9):
    print("reading", flush=True)
    sys.stdin.read()
"""
    reader = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "reading\n"
    finally:
        reader.kill()
        reader.communicate()
    with process.host.only_reader(wait_seconds=10) as mine:
        assert mine


def test_a_database_that_is_behind_is_said_once_and_not_followed(
    writer: Writer, processes: list[Process], database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A restored backup, a lagging replica: the host keeps what it has seen."""
    process = processes[0]
    record = writer.write()
    process.reconciler.poll()
    change(database, EARLIER)

    for _ in range(3):
        assert not process.reconciler.poll()
        process.reconciler.reconcile()

    assert process.host.position == (record.lineage, record.revision)
    assert process.reconciler.behind == (record.lineage, 1)
    assert len(caplog.records) == 1
    assert "flask waffle resync" in caplog.text

    change(database, LATER)
    assert process.reconciler.poll()
    assert process.reconciler.behind is None
    assert process.host.position == (record.lineage, 11)


def test_another_database_is_followed_whatever_its_revision(
    writer: Writer, processes: list[Process], database: Path
) -> None:
    process = processes[0]
    writer.write()
    process.reconciler.poll()
    change(database, ELSEWHERE)
    assert process.reconciler.poll()
    assert process.host.position == ("00000000000000bb", 1)
    assert process.reconciler.behind is None


def test_a_database_that_does_not_answer_is_said_once_and_so_is_its_return(
    writer: Writer, processes: list[Process], database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    process = processes[0]
    record = writer.write()
    process.reconciler.poll()
    writer.write()
    with contextlib.closing(sqlite3.connect(database)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                process.reconciler.poll()
            with pytest.raises(StoreUnavailable):
                process.reconciler.reconcile()
            assert process.reconciler.error is not None
            assert process.host.position == (record.lineage, record.revision)
    assert process.reconciler.poll()
    assert process.reconciler.error is None
    lost, back = (message.getMessage() for message in caplog.records)
    assert "asked again every 5 s" in lost
    assert "answers again" in back


def test_a_damaged_record_is_written_anew_from_sql(
    writer: Writer, processes: list[Process]
) -> None:
    process = processes[0]
    record = writer.write()
    process.reconciler.poll()
    process.host.words.cast("B")[layout.area_offset(process.host.sequence)] ^= 0xFF
    assert process.reconciler.poll()
    found = process.host.read()
    assert found is not None
    assert found[1] == record
