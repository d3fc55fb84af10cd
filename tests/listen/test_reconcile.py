"""Moving the host snapshot to SQL: with as few reads as possible, and never backwards."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import Apps
from tests.host.states import damage
from tests.support.listening import Host
from tests.support.statements import Statements, recording
from uwsgi_waffle.errors import StoreUnavailable
from uwsgi_waffle.host.locks import locked
from uwsgi_waffle.host.records import HostSnapshot
from uwsgi_waffle.host.turns import only_reader
from uwsgi_waffle.listen import reconcile
from uwsgi_waffle.listen.reconcile import Reconciler
from uwsgi_waffle.values.position import Position

LATER = "UPDATE waffle_namespace SET revision = revision + 10"
EARLIER = "UPDATE waffle_namespace SET revision = 1, stamp = '00000000000000e1'"
SAME_REVISION = "UPDATE waffle_namespace SET stamp = '00000000000000e2'"
ELSEWHERE = "UPDATE waffle_namespace SET lineage = '00000000000000bb', revision = 1"
PROCESSES = 8
ROUNDS = 10


@dataclass
class Process:
    """A process of the host, as far as it reads SQL."""

    reconciler: Reconciler
    host: HostSnapshot
    statements: Statements


@pytest.fixture
def impatient(tmp_path: Path) -> Iterator[Apps]:
    """Make applications on a SQLite that does not wait long for a lock."""
    with contextlib.closing(Apps(tmp_path, f"sqlite:///{tmp_path}/waffle.db?timeout=0.1")) as apps:
        yield apps


@pytest.fixture
def writer(impatient: Apps) -> Host:
    """Give another host, which has written a first revision."""
    host = Host(impatient, "writer", listens=False)
    host.commit()
    return host


@pytest.fixture
def processes(impatient: Apps, writer: Host) -> Iterator[list[Process]]:
    """Give processes of one host, which is at that revision."""
    with contextlib.ExitStack() as stack:
        made = []
        for _ in range(PROCESSES):
            state = Host(impatient, "here", listens=False).state
            seen = stack.enter_context(recording(state.store.database.engine))
            made.append(Process(state.reconciler, state.host, seen))
        assert made[0].host.position == writer.state.store.peek()
        yield made


@pytest.fixture
def process(processes: list[Process]) -> Process:
    """Give one of them."""
    return processes[0]


def change(apps: Apps, statement: str) -> None:
    """Change the database without an application."""
    with (
        contextlib.closing(sqlite3.connect(apps.directory / "waffle.db")) as connection,
        connection,
    ):
        connection.execute(statement)


def test_one_process_of_a_host_reads_what_was_announced_to_all(
    writer: Host, processes: list[Process]
) -> None:
    """At once, in as many threads: the rest see that the host has it."""
    with ThreadPoolExecutor(PROCESSES) as pool:
        for count in range(1, ROUNDS + 1):
            record = writer.commit()
            wanted = record.position
            found = list(pool.map(lambda p: p.reconciler.reconcile(wanted), processes))  # noqa: B023
            assert [one for one in found if one is not None] == [record]
            assert sum(p.statements.reads for p in processes) == count
            assert all(p.host.position == wanted for p in processes)


def test_one_process_of_a_host_reads_what_all_of_them_find_by_polling(
    writer: Host, processes: list[Process]
) -> None:
    """Where Redis is away, each compares positions by itself, and one reads the rows."""
    with ThreadPoolExecutor(PROCESSES) as pool:
        for count in range(1, ROUNDS + 1):
            writer.commit()
            list(pool.map(lambda p: p.reconciler.poll(), processes))
            assert sum(p.statements.reads for p in processes) == count


def test_a_poll_that_finds_nothing_new_reads_no_rows(writer: Host, process: Process) -> None:
    writer.commit()
    assert process.reconciler.poll()
    process.statements.clear()
    assert not process.reconciler.poll()
    assert len(process.statements) == 1
    assert process.statements.reads == 0


def test_a_reader_that_is_stuck_is_not_waited_for_long(
    writer: Host, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile, "WAIT_FOR_READER_SECONDS", 0.05)
    record = writer.commit()
    with locked(process.host.path, ".reader"):
        assert process.reconciler.reconcile(record.position) == record


def test_a_reader_that_is_killed_makes_room_for_the_next(process: Process) -> None:
    program = f"""
import pathlib, sys
from uwsgi_waffle.host.records import HostSnapshot
from uwsgi_waffle.host.turns import only_reader
with only_reader(HostSnapshot(pathlib.Path({str(process.host.path)!r})), wait_seconds=9):
    print("reading", flush=True)
    sys.stdin.read()
"""
    reader = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "reading\n"
        with only_reader(process.host, wait_seconds=0) as is_mine:
            assert not is_mine
    finally:
        reader.kill()
        reader.communicate()
    with only_reader(process.host, wait_seconds=10) as is_mine:
        assert is_mine


def test_a_database_that_is_behind_is_logged_once_and_not_followed(
    impatient: Apps, writer: Host, process: Process, caplog: pytest.LogCaptureFixture
) -> None:
    """A restored backup, a lagging replica: the host keeps what it has seen."""
    record = writer.commit()
    process.reconciler.poll()
    change(impatient, EARLIER)

    for _ in range(3):
        assert not process.reconciler.poll()
        process.reconciler.reconcile()

    assert process.host.position == record.position
    behind = Position(record.position.lineage, 1, "00000000000000e1")
    assert process.reconciler.behind == behind
    assert len(caplog.records) == 1
    assert "flask waffle resync" in caplog.text

    change(impatient, LATER)
    assert process.reconciler.poll()
    assert process.reconciler.behind is None
    assert process.host.position == Position(record.position.lineage, 11, behind.stamp)


def test_another_state_of_the_same_revision_is_followed(
    impatient: Apps, process: Process, caplog: pytest.LogCaptureFixture
) -> None:
    """A failover to a replica that had lost a commit, and made another one since."""
    before = process.host.position
    change(impatient, SAME_REVISION)
    assert process.reconciler.poll()
    assert process.host.position == Position(before.lineage, 1, "00000000000000e2")
    assert process.reconciler.behind is None
    assert caplog.records == []


def test_another_database_is_followed_whatever_its_revision(
    impatient: Apps, writer: Host, process: Process
) -> None:
    writer.commit()
    process.reconciler.poll()
    change(impatient, ELSEWHERE)
    assert process.reconciler.poll()
    assert process.host.position == writer.state.store.peek()
    assert process.host.position.lineage == "00000000000000bb"
    assert process.host.position.revision == 1
    assert process.reconciler.behind is None


@pytest.mark.parametrize("how", ["poll", "reconcile"])
def test_what_is_committed_and_published_during_a_comparison_is_no_false_alarm(
    writer: Host, process: Process, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    """SQL's answer is older than what the host has by then, as another process was faster."""
    ask = "peek" if how == "poll" else "read"
    store = process.reconciler._store  # noqa: SLF001
    answer = getattr(store, ask)

    def overtaken() -> object:
        found = answer()
        process.host.publish(writer.commit())
        return found

    setattr(store, ask, overtaken)
    for _ in range(5):
        getattr(process.reconciler, how)()
        assert process.reconciler.behind is None
    assert caplog.records == []


def test_a_database_that_does_not_answer_is_logged_once_and_so_is_its_return(
    impatient: Apps, writer: Host, process: Process, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    record = writer.commit()
    process.reconciler.poll()
    writer.commit()
    with contextlib.closing(sqlite3.connect(impatient.directory / "waffle.db")) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        for ask in (process.reconciler.poll, process.reconciler.reconcile) * 2:
            with pytest.raises(StoreUnavailable):
                ask()
            assert process.reconciler.error is not None
            assert process.host.position == record.position
    assert process.reconciler.poll()
    assert process.reconciler.error is None
    lost, back = (message.getMessage() for message in caplog.records)
    assert "asked again every 3600 s" in lost
    assert "answers again" in back


def test_a_damaged_record_is_written_anew_from_sql(writer: Host, process: Process) -> None:
    record = writer.commit()
    process.reconciler.poll()
    # Another process of the host finds it: this one has it decoded already.
    other = HostSnapshot(process.host.path)
    damage(other)
    reconciler = Reconciler(writer.state.store, other, 5.0)
    assert reconciler.poll()
    found = other.read()
    assert found is not None
    assert found[1] == record


def test_each_process_of_a_host_knows_whether_sql_answered_last(
    impatient: Apps, processes: list[Process]
) -> None:
    """Whichever process of it has asked; and how long ago SQL has answered it, and has not."""
    asked, other = processes[:2]
    asked.reconciler.poll()
    answered = other.host.sql_answer_age_seconds()
    assert (other.host.sql_answers, other.host.sql_failure_age_seconds()) == (True, None)

    path = impatient.directory / "waffle.db"
    kept = path.rename(impatient.directory / "kept.db")
    path.mkdir()
    asked.reconciler.release()
    with pytest.raises(StoreUnavailable):
        asked.reconciler.poll()
    assert other.host.sql_answers is False
    ages = other.host.sql_failure_age_seconds(), other.host.sql_answer_age_seconds()
    assert None not in (answered, *ages)
    assert ages == tuple(sorted(age for age in ages if age is not None))

    path.rmdir()
    kept.rename(path)
    other.reconciler.poll()
    assert asked.host.sql_answers is True


def test_a_host_that_has_not_asked_sql_knows_nothing_of_it(tmp_path: Path) -> None:
    host = HostSnapshot(tmp_path / "snapshot")
    assert (host.sql_answers, host.sql_answer_age_seconds()) == (None, None)
