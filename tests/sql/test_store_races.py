"""Many writers at once, on each database: no change lost, no revision skipped, none invalid."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from typing_extensions import Self

from tests.conftest import Apps, state_of
from tests.sql.writer import (
    Settings,
    count_up,
    die_in_transaction,
    move_bounds,
    outcomes,
    write_unique,
    writers,
)
from tests.support.soak import times
from tests.support.waiting import SOON_SECONDS
from uwsgi_waffle import InvalidSetting, WaffleConf
from uwsgi_waffle.sql.store import RowChange, Signature, Store
from uwsgi_waffle.values.snapshot import Record

pytestmark = pytest.mark.timeout(600)


class Reader:
    """Reads as fast as it can, and keeps what it has seen."""

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
    """Assert that the history holds these revisions, 1 to the last, each once."""
    assert sorted(revisions) == list(range(1, len(revisions) + 1))
    assert {change.revision for change in waffle.history(limit=None)} == set(revisions)
    waffle.refresh()
    assert waffle.revision == len(revisions)


def test_each_update_makes_a_revision_without_a_gap(database_apps: Apps) -> None:
    """Processes write unique values; a reader sees no revision before it is complete."""
    app, waffle = database_apps(Settings)
    state, count, rounds = state_of(app), times(4, 8), times(40, 200)
    with Reader(state.store) as reader:
        found = outcomes(write_unique, database_apps, count, rounds)
    revisions = [revision for outcome in found for revision in outcome["revisions"]]
    assert len(revisions) == count * rounds
    assert_no_gap(waffle, revisions)
    # The revisions that a process gets are in the order of its writes.
    assert all(outcome["revisions"] == sorted(outcome["revisions"]) for outcome in found)
    assert reader.went_back == []
    assert len(reader.records) > times(5, 20)
    stamps = state.history.stamps_from(1)
    for revision in sorted(reader.records)[1 :: 1 + len(reader.records) // 20]:
        # What was read of a revision is all of it, so no change was still to come.
        rows = state.history.rows_at(revision)
        assert rows is not None
        assert reader.records[revision].rows == {n: t for n, t in rows.items() if t is not None}
        assert reader.records[revision].position.stamp == stamps[revision]


def test_an_expected_revision_refuses_the_stale_writes_and_no_others(database_apps: Apps) -> None:
    """Processes count a number up, and no count is lost."""
    _, waffle = database_apps(Settings)
    rounds = times(15, 50)
    found = outcomes(count_up, database_apps, 4, rounds)
    revisions = [revision for outcome in found for revision in outcome["revisions"]]
    refused = [pair for outcome in found for pair in outcome["refused"]]
    assert len(revisions) + len(refused) == 4 * rounds
    assert refused, "they did not write at the same time"
    assert all(expected < actual for expected, actual in refused)
    assert_no_gap(waffle, revisions)
    assert len(revisions) == waffle.settings.COUNTER


def test_no_two_writers_commit_an_invalid_whole(database_apps: Apps) -> None:
    """Processes move LO and HI about; LO <= HI in every revision."""
    _, waffle = database_apps(Settings)
    found = outcomes(move_bounds, database_apps, 4, times(20, 50))
    assert sum(outcome["refused"] for outcome in found) > 0
    bounds = {"LO": 0, "HI": 100}
    changes = waffle.history(limit=None)
    assert len(changes) > 20
    for change in reversed(changes):
        assert change.old == bounds[change.name]
        bounds[change.name] = change.new
        assert bounds["LO"] <= bounds["HI"], change


def test_two_changes_that_are_valid_alone_but_not_together(
    database_apps: Apps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second writer waits for the first, and is validated against what the first has left."""
    app, first = database_apps(Settings)
    second_app, second = database_apps(Settings, host="there")
    first.update({"LO": 10, "HI": 50})
    holding, asked, has_read = threading.Event(), threading.Event(), threading.Event()
    refused: list[InvalidSetting] = []
    rows_seen: list[Any] = []

    def hold(record: Record) -> dict[str, RowChange]:
        holding.set()
        assert asked.wait(SOON_SECONDS)
        # If the other one could read now, it would read what is about to be outdated.
        assert not has_read.wait(0.2)
        assert record.rows == {"LO": "10", "HI": "50"}
        return {"LO": RowChange("10", "40")}

    other = state_of(second_app).store
    read = other._read  # noqa: SLF001  to know when it has read

    def watched(connection: Any, **how: bool) -> Record:
        record = read(connection, **how)
        rows_seen.append(record.rows)
        has_read.set()
        return record

    def change_second() -> None:
        assert holding.wait(SOON_SECONDS)
        monkeypatch.setattr(other, "_read", watched)
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


def test_a_crash_in_mid_transaction_changes_nothing(database_apps: Apps) -> None:
    """A writer is killed (SIGKILL) just before its commit; the next writer continues."""
    app, waffle = database_apps(Settings)
    waffle.update({"LAST": "before"})
    before = state_of(app).store.read()
    with writers(die_in_transaction, database_apps, 1, 1) as ((writer, _),):
        writer.join(SOON_SECONDS)
        assert writer.exitcode == -9
    assert state_of(app).store.read() == before
    assert [change.revision for change in waffle.history()] == [1]
    assert waffle.update({"LAST": "after"}).revision == 2


def test_threads_of_one_process_write_at_once(database_apps: Apps) -> None:
    _, waffle = database_apps(Settings)
    revisions: list[int] = []

    def write(number: int) -> None:
        revisions.extend(waffle.update({"LAST": f"{number} {i}"}).revision for i in range(5))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(revisions) == 30
    assert_no_gap(waffle, revisions)
