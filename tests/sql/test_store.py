"""The contract of the store, on SQLite, PostgreSQL and MariaDB."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone

import pytest
import sqlalchemy as sa

from tests.conftest import Apps, execute, state_of
from tests.support.declarations import Bounds
from uwsgi_waffle import (
    InvalidSetting,
    RevisionConflict,
    StoreUnavailable,
    UnknownRevision,
    UnknownSetting,
)
from uwsgi_waffle.sql.store import RowChange, Signature, Store
from uwsgi_waffle.values.snapshot import Record


class Settings(Bounds):
    """Some settings, and a rule that two of them must keep together."""

    SITENAME: str = "Waffle"
    TEXT: str = ""


@contextmanager
def statements(store: Store) -> Iterator[list[str]]:
    """Collect the statements of a process, and "COMMIT" and "ROLLBACK" of transactions."""
    seen: list[str] = []
    engine = store.database.engine

    def note(_c: object, _cursor: object, statement: str, *_: object) -> None:
        seen.append(statement)

    def note_commit(_: object) -> None:
        seen.append("COMMIT")

    sa.event.listen(engine, "before_cursor_execute", note)
    sa.event.listen(engine, "commit", note_commit)
    try:
        yield seen
    finally:
        sa.event.remove(engine, "before_cursor_execute", note)
        sa.event.remove(engine, "commit", note_commit)


def test_without_tables_defaults_are_served_and_a_write_creates_them(database_apps: Apps) -> None:
    app, waffle = database_apps(Settings)
    assert (waffle.revision, waffle.settings.SITENAME) == (0, "Waffle")
    assert (waffle.history(), waffle.refresh()) == ([], False)
    assert state_of(app).store.read() == Record()
    engine = state_of(app).store.database.engine
    assert sa.inspect(engine).get_table_names() == []
    assert waffle.update({"SITENAME": "New"}).revision == 1
    assert len(sa.inspect(engine).get_table_names()) >= 3
    assert waffle.settings.SITENAME == "New"


def test_without_auto_create_missing_tables_are_a_clear_error(database_apps: Apps) -> None:
    app, waffle = database_apps(Settings, WAFFLE_AUTO_CREATE=False)
    assert waffle.settings.SITENAME == "Waffle"
    with pytest.raises(StoreUnavailable, match="flask waffle init-db") as caught:
        waffle.update({"SITENAME": "New"})
    assert "WAFFLE_AUTO_CREATE" in str(caught.value)
    assert sa.inspect(state_of(app).store.database.engine).get_table_names() == []
    assert (waffle.revision, waffle.settings.SITENAME) == (0, "Waffle")
    state_of(app).store.database.create_tables()
    assert waffle.update({"SITENAME": "New"}).revision == 1


def test_several_settings_are_one_revision(database_apps: Apps) -> None:
    _, waffle = database_apps(Settings)
    done = waffle.update({"SITENAME": "New", "HI": 20, "LO": 15}, actor="alice", comment="why")
    assert done.revision == 1
    assert done.changes == {"SITENAME": ("Waffle", "New"), "HI": (10, 20), "LO": (0, 15)}
    changes = waffle.history()
    assert [(c.revision, c.name, c.old, c.new) for c in changes] == [
        (1, "HI", 10, 20),
        (1, "LO", 0, 15),
        (1, "SITENAME", "Waffle", "New"),
    ]
    assert {(c.actor, c.comment, c.source) for c in changes} == {("alice", "why", "python")}
    assert abs(changes[0].at - datetime.now(timezone.utc)) < timedelta(minutes=5)


@pytest.mark.parametrize("count", [1, 100])
def test_an_update_is_one_transaction_of_as_many_statements_for_any_number_of_settings(
    database_apps: Apps, count: int
) -> None:
    confs = {f"S{number:03}": {"default": 0} for number in range(100)}
    app, waffle = database_apps(WAFFLE_CONFS=confs)
    waffle.update(dict.fromkeys(confs, 1))
    with statements(state_of(app).store) as seen:
        waffle.update(dict.fromkeys(list(confs)[:count], 2))
    assert [statement.split()[0] for statement in seen] == [
        *("UPDATE", "SELECT", "DELETE", "INSERT", "INSERT", "UPDATE", "COMMIT")
    ]


def test_the_first_statement_of_a_writer_takes_the_lock(database_apps: Apps) -> None:
    """A second writer gets no further than that while the first has not ended."""
    app, waffle = database_apps(Settings)
    waffle.update({"HI": 20})
    state = state_of(database_apps(Settings, host="there")[0])
    inside, go_on = threading.Event(), threading.Event()
    order: list[str] = []

    def hold(record: Record) -> dict[str, RowChange]:
        order.append(f"first at {record.revision}")
        inside.set()
        assert go_on.wait(30)
        order.append("first ends")
        return {}

    def second() -> None:
        def plan(record: Record) -> dict[str, RowChange]:
            order.append(f"second at {record.revision}")
            return {}

        go_on.set()
        state.store.write(plan, Signature())

    first = threading.Thread(target=state_of(app).store.write, args=(hold, Signature()))
    first.start()
    assert inside.wait(30)
    other = threading.Thread(target=second)
    other.start()
    first.join()
    other.join()
    assert order == ["first at 1", "first ends", "second at 1"]


def test_equal_values_make_no_revision(database_apps: Apps) -> None:
    _, waffle = database_apps(Settings)
    assert waffle.update({"SITENAME": "Waffle"}).revision == 0
    waffle.update({"SITENAME": "New"})
    for again in ({"SITENAME": "New"}, {"SITENAME": "New", "LO": "0"}, {}):
        done = waffle.update(again)
        assert (done.revision, done.changes) == (1, {})
    assert waffle.reset("LO").revision == waffle.reset().revision == 1
    assert waffle.rollback(1).revision == 1
    assert len(waffle.history()) == 1


def test_a_refused_write_changes_nothing(database_apps: Apps) -> None:
    app, waffle = database_apps(Settings)
    waffle.update({"LO": 5})
    before = state_of(app).store.read()
    for values, error in (
        ({"SITENAME": "New", "NOPE": 1}, UnknownSetting),
        ({"SITENAME": "New", "LO": -1}, InvalidSetting),
        ({"SITENAME": "New", "LO": "many"}, InvalidSetting),
        ({"SITENAME": "New", "HI": 4}, InvalidSetting),
        ({"SITENAME": "New", "TEXT": "x" * 1_000_000}, InvalidSetting),
    ):
        with pytest.raises(error):
            waffle.update(values)
    with pytest.raises(RevisionConflict) as conflict:
        waffle.update({"SITENAME": "New"}, expected_revision=0)
    assert (conflict.value.expected, conflict.value.actual) == (0, 1)
    assert state_of(app).store.read() == before
    assert len(waffle.history()) == 1
    assert waffle.update({"LO": 11, "HI": 12}, expected_revision=1).revision == 2


def test_any_text_comes_back_as_it_was(database_apps: Apps) -> None:
    app, waffle = database_apps(Settings)
    for text in ("größer 🧇 \u2028\\n'\";--%s", "null", " x ", "\x00", "ß" * 40_000):
        waffle.update({"TEXT": text}, actor="Zoë 🧇", comment="100% ?:x")
        there = database_apps(Settings, host=f"host-{len(text)}")[1]
        assert text == there.settings.TEXT
        assert waffle.history(limit=1)[0].new == text
        assert waffle.history(limit=1)[0].actor == "Zoë 🧇"
    assert state_of(app).serving.current.problems == ()


def test_reset_takes_the_row_away_and_says_so_in_history(database_apps: Apps) -> None:
    app, waffle = database_apps(Settings)
    waffle.update({"SITENAME": "New", "LO": 3})
    done = waffle.reset("SITENAME", actor="bob")
    assert (done.revision, done.changes) == (2, {"SITENAME": ("New", "Waffle")})
    assert state_of(app).store.read().rows == {"LO": "3"}
    assert waffle.history("SITENAME")[0].is_default


def test_rollback_makes_a_new_revision_equal_to_an_old_one(database_apps: Apps) -> None:
    _, waffle = database_apps(Settings)
    waffle.update({"SITENAME": "One", "HI": 20})
    waffle.update({"SITENAME": "Two", "LO": 15})
    waffle.reset("HI", "LO")
    done = waffle.rollback(2, comment="back")
    assert done.revision == 4
    assert done.changes == {"HI": (10, 20), "LO": (0, 15)}
    assert waffle.rollback(1).changes == {"SITENAME": ("Two", "One"), "LO": (15, 0)}
    assert waffle.rollback(0).changes == {"SITENAME": ("One", "Waffle"), "HI": (20, 10)}
    for missing in (7, -1):
        with pytest.raises(UnknownRevision) as caught:
            waffle.rollback(missing)
        assert (caught.value.revision, caught.value.newest) == (missing, 6)


def test_history_can_be_limited(database_apps: Apps) -> None:
    _, waffle = database_apps(Settings)
    for number in range(1, 6):
        waffle.update({"HI": 10 + number, "SITENAME": f"{number}"})
    assert [c.new for c in waffle.history("SITENAME", limit=2)] == ["5", "4"]
    assert len(waffle.history(limit=None)) == 10
    assert waffle.history(limit=0) == waffle.history("NOPE") == []
    with pytest.raises(ValueError, match="limit = -1"):
        waffle.history(limit=-1)


def test_namespaces_do_not_see_each_other(database_apps: Apps) -> None:
    first = database_apps(Settings, host="first", WAFFLE_NAMESPACE="first")[1]
    second = database_apps(Settings, host="second", WAFFLE_NAMESPACE="second")[1]
    first.update({"SITENAME": "First"})
    first.update({"SITENAME": "Again"})
    assert second.refresh() is False
    assert (second.revision, second.settings.SITENAME, second.history()) == (0, "Waffle", [])
    assert second.update({"SITENAME": "Second"}).revision == 1
    assert first.refresh() is False
    assert second.rollback(0).changes == {"SITENAME": ("Second", "Waffle")}


def test_a_setting_no_longer_declared_stays_and_stops_nothing(database_apps: Apps) -> None:
    """The next release may declare it again; the last one may still run beside this one."""

    class Older(Settings):
        GONE: int = 1

    _, older = database_apps(Older)
    older.update({"GONE": 2, "SITENAME": "Old"})
    older.update({"GONE": 3})
    app, newer = database_apps(Settings)
    assert state_of(app).serving.current.undeclared == ("GONE",)
    assert [c.new for c in newer.history("GONE")] == [3, 2]
    assert newer.rollback(1).revision == 2
    assert newer.rollback(0).changes == {"SITENAME": ("Old", "Waffle")}
    older.refresh()
    assert (older.settings.GONE, older.settings.SITENAME) == (3, "Waffle")


def test_a_database_set_back_to_a_backup(
    database_apps: Apps, caplog: pytest.LogCaptureFixture
) -> None:
    """What was seen later is served, it is said once, and the next write goes past it."""
    app, waffle = database_apps(Settings)
    for number in range(1, 6):
        waffle.update({"SITENAME": f"{number}"})
    execute(
        database_apps.database_uri,
        "UPDATE waffle_namespace SET revision = 2",
        "DELETE FROM waffle_change WHERE revision > 2",
        "UPDATE waffle_setting SET value = '\"2\"', revision = 2",
    )
    for _ in range(2):
        assert waffle.refresh() is False
        assert (waffle.revision, waffle.settings.SITENAME) == (5, "5")
    assert caplog.text.count("is at revision 2, but this host has seen 5") == 1
    assert state_of(app).reconciler.behind is not None
    done = waffle.update({"LO": 3})
    assert done.revision == 6
    assert (waffle.revision, waffle.settings.SITENAME, waffle.settings.LO) == (6, "2", 3)


def test_another_database_replaces_what_was_served(database_apps: Apps) -> None:
    """Its lineage is another one, so its revisions have nothing to do with ours."""
    _, waffle = database_apps(Settings)
    for number in range(1, 6):
        waffle.update({"SITENAME": f"{number}"})
    execute(
        database_apps.database_uri,
        "UPDATE waffle_namespace SET revision = 1, lineage = 'feedfeedfeedfeed'",
        "DELETE FROM waffle_change WHERE revision > 1",
        "UPDATE waffle_setting SET value = '\"other\"'",
    )
    assert waffle.refresh() is True
    assert (waffle.revision, waffle.settings.SITENAME) == (1, "other")
    assert waffle.update({"SITENAME": "next"}).revision == 2


@pytest.mark.parametrize("lineage", ["restored-by-me", "0" * 16, "ABCDEF0123456789"])
def test_a_lineage_that_somebody_wrote_by_hand_stops_nobody(lineage: str, apps: Apps) -> None:
    """The host snapshot holds it as a number; any text comes down to one."""
    app, waffle = apps(WAFFLE_CONFS={"SIZE": {"default": 1}})
    waffle.update({"SIZE": 2})
    execute(apps.database_uri, f"UPDATE waffle_namespace SET lineage = '{lineage}'")  # noqa: S608  # ours
    assert waffle.refresh()
    assert state_of(app).store.peek() == state_of(app).host.position
    assert waffle.update({"SIZE": 3}).revision == 2
    assert not waffle.refresh()
    assert waffle.settings.SIZE == 3
