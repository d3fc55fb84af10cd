"""Many writers at once, on each database: nothing lost, nothing skipped, nothing invalid."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from typing_extensions import Self

from tests.apps.writer import Settings
from tests.conftest import Apps, state_of
from uwsgi_waffle import InvalidSetting, WaffleConf
from uwsgi_waffle.sql.store import RowChange, Signature, Store
from uwsgi_waffle.values.snapshot import Record

WRITERS = 8
ROUNDS = 200


@contextlib.contextmanager
def writers(
    mode: str, apps: Apps, count: int, rounds: int
) -> Iterator[list[subprocess.Popen[str]]]:
    """Run processes that write, each on a host of its own, and end them whatever happens."""
    command = [sys.executable, "-m", "tests.apps.writer", mode, apps.database_uri]
    started: list[subprocess.Popen[str]] = []
    try:
        for number in range(count):
            snapshot = str(apps.directory / f"writer-{number}" / "snapshot")
            started.append(
                subprocess.Popen(
                    [*command, snapshot, str(rounds)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in started:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        yield started
    finally:
        for process in started:
            process.kill()
            with contextlib.suppress(BrokenPipeError):
                process.communicate()


def outcomes(started: list[subprocess.Popen[str]]) -> list[dict[str, Any]]:
    """Wait for the writers, and return what became of their writes."""
    found = []
    for process in started:
        assert process.stdout is not None
        found.append(json.loads(process.stdout.read()))
        assert process.wait(30) == 0
    return found


class Reader:
    """Reads as fast as it can, and keeps all that it saw."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._stop = threading.Event()
        self.records: dict[int, Record] = {}
        self.went_back: list[tuple[int, int]] = []
        self._thread = threading.Thread(target=self._read)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _read(self) -> None:
        seen = 0
        while not self._stop.is_set():
            record = self._store.read()
            if record.revision < seen:
                self.went_back.append((seen, record.revision))
            seen = record.revision
            self.records[record.revision] = record


def assert_no_gap(waffle: WaffleConf[Any], revisions: list[int]) -> None:
    """Assert that the history holds just these revisions, 1 to the last, each once."""
    assert sorted(revisions) == list(range(1, len(revisions) + 1))
    assert {change.revision for change in waffle.history(limit=None)} == set(revisions)
    waffle.refresh()
    assert waffle.revision == len(revisions)


@pytest.mark.timeout(300)
def test_as_many_revisions_as_updates_and_no_gap(database_apps: Apps) -> None:
    """8 processes make 200 updates each, at first without tables; a reader skips none half-way."""
    app, waffle = database_apps(Settings)
    store = state_of(app).store
    with writers("unique", database_apps, WRITERS, ROUNDS) as started, Reader(store) as reader:
        found = outcomes(started)
    revisions = [revision for outcome in found for revision in outcome["revisions"]]
    assert len(revisions) == WRITERS * ROUNDS
    assert_no_gap(waffle, revisions)
    # What one process was told is the order in which it wrote.
    assert all(outcome["revisions"] == sorted(outcome["revisions"]) for outcome in found)
    assert reader.went_back == []
    assert len(reader.records) > 20
    for revision in sorted(reader.records)[:: len(reader.records) // 20]:
        # What was read of a revision is all of it, so none below it was still to come.
        rows = store.rows_at(revision)
        assert rows is not None
        assert reader.records[revision].rows == {n: t for n, t in rows.items() if t is not None}


@pytest.mark.timeout(300)
def test_expected_revision_refuses_just_the_stale_ones(database_apps: Apps) -> None:
    """4 processes count one number up 50 times each, and no count is lost."""
    _, waffle = database_apps(Settings)
    with writers("count", database_apps, 4, 50) as started:
        found = outcomes(started)
    revisions = [revision for outcome in found for revision in outcome["revisions"]]
    refused = [pair for outcome in found for pair in outcome["refused"]]
    assert len(revisions) + len(refused) == 200
    assert refused, "they were not at it at once"
    assert all(expected < actual for expected, actual in refused)
    assert_no_gap(waffle, revisions)
    assert len(revisions) == waffle.settings.COUNTER


@pytest.mark.timeout(300)
def test_no_two_writers_commit_an_invalid_whole(database_apps: Apps) -> None:
    """4 processes move LO and HI about; LO <= HI in every revision there ever was."""
    _, waffle = database_apps(Settings)
    with writers("bounds", database_apps, 4, 50) as started:
        found = outcomes(started)
    assert sum(outcome["refused"] for outcome in found) > 0
    bounds = {"LO": 0, "HI": 100}
    changes = waffle.history(limit=None)
    assert len(changes) > 20
    for change in reversed(changes):
        assert change.old == bounds[change.name]
        bounds[change.name] = change.new
        assert bounds["LO"] <= bounds["HI"], change


def test_two_changes_that_are_valid_alone_but_not_together(
    database_apps: Apps,
) -> None:
    """The second writer waits for the first, and is judged by what the first has left."""
    app, first = database_apps(Settings)
    second_app, second = database_apps(Settings, host="there")
    first.update({"LO": 10, "HI": 50})
    holding, asked = threading.Event(), threading.Event()
    refused: list[InvalidSetting] = []
    rows_seen: list[Any] = []

    def hold(record: Record) -> dict[str, RowChange]:
        holding.set()
        assert asked.wait(30)
        # The other one would by now have read what is about to be outdated, if it could.
        assert not rows_seen_event.wait(0.3)
        assert record.rows == {"LO": "10", "HI": "50"}
        return {"LO": RowChange("10", "40")}

    rows_seen_event = threading.Event()
    other = state_of(second_app).store
    read = other._read  # noqa: SLF001  to know when it has read

    def watched(connection: Any) -> Record:
        record = read(connection)
        rows_seen.append(record.rows)
        rows_seen_event.set()
        return record

    def change_second() -> None:
        assert holding.wait(30)
        other._read = watched  # type: ignore[method-assign]  # noqa: SLF001
        asked.set()
        try:
            second.update({"HI": 30})
        except InvalidSetting as error:
            refused.append(error)

    thread = threading.Thread(target=change_second)
    thread.start()
    try:
        state_of(app).store.write(hold, Signature())
    finally:
        asked.set()
        thread.join()
    assert rows_seen == [{"LO": "40", "HI": "50"}]
    assert "LO must not exceed HI" in str(refused[0])
    first.refresh()
    assert (first.revision, first.settings.LO, first.settings.HI) == (2, 40, 50)


def test_a_crash_in_mid_transaction_leaves_nothing(database_apps: Apps) -> None:
    """Killed (SIGKILL) when all is written and nothing committed; the next writer goes on."""
    app, waffle = database_apps(Settings)
    waffle.update({"LAST": "before"})
    before = state_of(app).store.read()
    with writers("die", database_apps, 1, 1) as (process,):
        assert process.wait(30) == -9
    assert state_of(app).store.read() == before
    assert [change.revision for change in waffle.history()] == [1]
    assert waffle.update({"LAST": "after"}).revision == 2


def test_threads_of_one_process_write_at_once(database_apps: Apps) -> None:
    _, waffle = database_apps(Settings)
    revisions: list[int] = []

    def write(number: int) -> None:
        revisions.extend(waffle.update({"LAST": f"{number} {i}"}).revision for i in range(10))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_no_gap(waffle, revisions)
