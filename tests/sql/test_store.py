"""The contract of the store, on SQLite, PostgreSQL and MariaDB."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
import sqlalchemy as sa

from tests.conftest import Apps, execute, state_of
from tests.support.declarations import Bounds
from tests.support.statements import recording
from tests.support.waiting import NEVER_SECONDS
from uwsgi_waffle import (
    InvalidSetting,
    RevisionConflict,
    StoreUnavailable,
    UnknownRevision,
    UnknownSetting,
)
from uwsgi_waffle.values.snapshot import Record


class Settings(Bounds):
    """Some settings, and a rule about two of them."""

    SITENAME: str = "Waffle"
    TEXT: str = ""


def test_the_first_start_creates_the_tables_and_the_namespace(database_apps: Apps) -> None:
    app, waffle = database_apps(Settings)
    record = state_of(app).store.read()
    assert (record.revision, record.position.stamp, record.rows) == (0, "", {})
    assert record.position == state_of(app).host.position
    assert len(record.position.lineage) == 16
    assert record.keys == state_of(app).host.keys
    assert len(record.keys[0]) == 64
    assert (waffle.revision, waffle.settings.SITENAME) == (0, "Waffle")
    assert (waffle.history(), waffle.refresh()) == ([], False)
    assert waffle.update({"SITENAME": "New"}).revision == 1
    after = state_of(database_apps(Settings, host="there")[0]).store.read()
    assert after.position.lineage == record.position.lineage
    assert after.keys == record.keys
    assert "keys" not in repr(after), "no log line may show a key"


def test_without_auto_create_missing_tables_are_a_clear_error(database_apps: Apps) -> None:
    app, waffle = database_apps(Settings, WAFFLE_AUTO_CREATE=False)
    store = state_of(app).store
    assert (waffle.settings.SITENAME, waffle.history(), store.read()) == ("Waffle", [], Record())
    with pytest.raises(StoreUnavailable, match="flask waffle init-db") as caught:
        waffle.update({"SITENAME": "New"})
    assert "The tables of the settings are missing" in str(caught.value)
    assert "WAFFLE_AUTO_CREATE" in str(caught.value)
    assert sa.inspect(store.database.engine).get_table_names() == []
    assert (waffle.revision, waffle.settings.SITENAME) == (0, "Waffle")
    store.database.create_tables()
    assert waffle.update({"SITENAME": "New"}).revision == 1
    assert store.read().keys


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


CONFS = {f"S{number:03}": {"default": 0} for number in range(100)}


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, ["UPDATE", "UPDATE", "INSERT", "COMMIT"]),
        (100, ["UPDATE", "DELETE", "INSERT", "INSERT", "COMMIT"]),
    ],
)
def test_an_update_of_the_state_that_is_served_is_one_transaction_without_a_read(
    database_apps: Apps, count: int, expected: list[str]
) -> None:
    """The first statement takes the lock, and moves the position from the one that is served."""
    app, waffle = database_apps(WAFFLE_CONFS=CONFS)
    waffle.update(dict.fromkeys(CONFS, 1))
    with recording(state_of(app).store.database.engine, commits=True) as statements:
        waffle.update(dict.fromkeys(list(CONFS)[:count], 2))
    assert [statement.split()[0] for statement in statements] == expected
    assert state_of(app).store.read() == state_of(app).serving.current.record


def test_an_update_of_a_state_that_is_not_served_reads_the_present_one(
    database_apps: Apps,
) -> None:
    app, waffle = database_apps(WAFFLE_CONFS=CONFS, WAFFLE_POLL_SECONDS=NEVER_SECONDS)
    _, elsewhere = database_apps(
        WAFFLE_CONFS=CONFS, host="elsewhere", WAFFLE_POLL_SECONDS=NEVER_SECONDS
    )
    waffle.update({"S000": 1, "S001": 1})
    elsewhere.refresh()
    elsewhere.update({"S001": 2})
    with recording(state_of(app).store.database.engine, commits=True) as statements:
        assert waffle.update({"S000": 3}).revision == 3
    assert [statement.split()[0] for statement in statements] == [
        *("UPDATE", "UPDATE", "SELECT", "UPDATE", "INSERT", "UPDATE", "COMMIT")
    ]
    assert (waffle.settings.S000, waffle.settings.S001) == (3, 2)
    assert state_of(app).store.read() == state_of(app).serving.current.record


def test_a_write_that_changes_nothing_or_is_refused_leaves_the_position(
    database_apps: Apps,
) -> None:
    """Though its first statement has moved it."""
    app, waffle = database_apps(Settings)
    waffle.update({"LO": 5})
    before = state_of(app).store.peek()
    assert waffle.update({"LO": 5}).revision == 1
    with pytest.raises(InvalidSetting):
        waffle.update({"LO": -1})
    with pytest.raises(RevisionConflict):
        waffle.update({"LO": 6}, expected_revision=2)
    assert state_of(app).store.peek() == before
    assert waffle.update({"LO": 6}, expected_revision=1).revision == 2


def test_a_row_that_was_deleted_by_hand_is_written_again(database_apps: Apps) -> None:
    """Though the position, by which the rows are known, is the same."""
    app, waffle = database_apps(Settings)
    waffle.update({"LO": 5, "HI": 20})
    execute(app.config["WAFFLE_DATABASE_URI"], "DELETE FROM waffle_setting")
    waffle.update({"LO": 6})
    assert state_of(app).store.read().rows == {"LO": "6"}


def test_equal_values_make_no_revision(some_apps: Apps) -> None:
    _, waffle = some_apps(Settings)
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
    assert state_of(app).serving.current.refused == ()


def test_a_reset_removes_the_row_and_is_marked_in_the_history(database_apps: Apps) -> None:
    app, waffle = database_apps(Settings)
    waffle.update({"SITENAME": "New", "LO": 3})
    done = waffle.reset("SITENAME", actor="bob")
    assert (done.revision, done.changes) == (2, {"SITENAME": ("New", "Waffle")})
    assert state_of(app).store.read().rows == {"LO": "3"}
    assert waffle.history("SITENAME")[0].is_default


def test_a_rollback_makes_a_new_revision_equal_to_an_old_one(database_apps: Apps) -> None:
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


def test_the_history_can_be_limited(database_apps: Apps) -> None:
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


def test_a_setting_that_is_no_longer_declared_stays_and_is_left_alone(some_apps: Apps) -> None:
    """The next release may declare it again; the last one may still run beside this one."""

    class Older(Settings):
        GONE: int = 1

    _, older = some_apps(Older)
    older.update({"GONE": 2, "SITENAME": "Old"})
    older.update({"GONE": 3})
    app, newer = some_apps(Settings)
    assert state_of(app).serving.current.undeclared == ("GONE",)
    assert [c.new for c in newer.history("GONE")] == [3, 2]
    assert newer.rollback(1).revision == 2
    assert newer.rollback(0).changes == {"SITENAME": ("Old", "Waffle")}
    older.refresh()
    assert (older.settings.GONE, older.settings.SITENAME) == (3, "Waffle")


def test_of_a_restored_backup_the_later_state_is_served_until_a_write(
    some_apps: Apps, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged once, and the next write makes a revision later than both."""
    app, waffle = some_apps(Settings)
    for number in range(1, 6):
        waffle.update({"SITENAME": f"{number}"})
    execute(
        some_apps.database_uri,
        "UPDATE waffle_namespace SET revision = 2, stamp = '2222222222222222'",
        "DELETE FROM waffle_change WHERE revision > 2",
        "UPDATE waffle_setting SET value = '\"2\"', revision = 2",
    )
    for _ in range(2):
        assert waffle.refresh() is False
        assert (waffle.revision, waffle.settings.SITENAME) == (5, "5")
    assert caplog.text.count("is at revision 2, but this host is ahead of SQL, at revision 5") == 1
    assert state_of(app).reconciler.behind is not None
    assert waffle.update({"LO": 3}).revision == 6
    assert (waffle.revision, waffle.settings.SITENAME, waffle.settings.LO) == (6, "2", 3)


@pytest.mark.parametrize(
    "state",
    [
        "revision = 1, lineage = 'feedfeedfeedfeed'",  # another database
        "stamp = 'feedfeedfeedfeed'",  # another primary's state of this revision
    ],
)
def test_another_state_in_sql_replaces_what_was_served(some_apps: Apps, state: str) -> None:
    _, waffle = some_apps(Settings)
    for number in range(1, 6):
        waffle.update({"SITENAME": f"{number}"})
    execute(
        some_apps.database_uri,
        f"UPDATE waffle_namespace SET {state}",  # noqa: S608  # from above
        "UPDATE waffle_setting SET value = '\"other\"'",
        "DELETE FROM waffle_change",
    )
    revision = 1 if "lineage" in state else 5
    assert waffle.refresh() is True
    assert (waffle.revision, waffle.settings.SITENAME) == (revision, "other")
    assert waffle.update({"SITENAME": "next"}).revision == revision + 1


@pytest.mark.parametrize("text", ["restored-by-me", "0" * 16, "ABCDEF0123456789"])
@pytest.mark.parametrize("column", ["lineage", "stamp"])
def test_a_lineage_and_a_stamp_may_be_any_text(text: str, column: str, apps: Apps) -> None:
    """The host snapshot holds them as numbers; any text is mapped to one."""
    app, waffle = apps(WAFFLE_CONFS={"SIZE": {"default": 1}})
    waffle.update({"SIZE": 2})
    execute(apps.database_uri, f"UPDATE waffle_namespace SET {column} = '{text}'")  # noqa: S608  # ours
    assert waffle.refresh()
    assert state_of(app).store.peek() == state_of(app).host.position
    assert waffle.update({"SIZE": 3}).revision == 2
    assert not waffle.refresh()
    assert waffle.settings.SIZE == 3
