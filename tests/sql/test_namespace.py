"""The namespace row: made once, upgraded from release 0.1.0, and stamped by each commit."""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest
import sqlalchemy as sa

from tests.conftest import Apps, execute, state_of
from tests.sql.conftest import CONFS, MakeStore, stores_for
from tests.support import DATABASE_KINDS, DatabaseKind, fresh_database
from tests.support.soak import times
from uwsgi_waffle import StoreUnavailable
from uwsgi_waffle.sql.maintenance import resync
from uwsgi_waffle.sql.store import RowChange, Signature, Store
from uwsgi_waffle.values.position import NOWHERE, Position
from uwsgi_waffle.values.snapshot import Record

T = TypeVar("T")

LINEAGE = "0123456789abcdef"

#: The tables of release 0.1.0, and two rows of them.
OLD_DATABASE = """
CREATE TABLE waffle_namespace (
    name VARCHAR(100) NOT NULL PRIMARY KEY, lineage VARCHAR(16) NOT NULL,
    revision BIGINT NOT NULL, pruned BIGINT DEFAULT 0 NOT NULL
);
CREATE TABLE waffle_setting (
    namespace VARCHAR(100) NOT NULL, name VARCHAR(150) NOT NULL, value TEXT NOT NULL,
    revision BIGINT NOT NULL, PRIMARY KEY (namespace, name)
);
CREATE TABLE waffle_change (
    namespace VARCHAR(100) NOT NULL, revision BIGINT NOT NULL, name VARCHAR(150) NOT NULL,
    old TEXT NOT NULL, new TEXT NOT NULL, is_default BOOLEAN DEFAULT false NOT NULL,
    actor VARCHAR(200), comment TEXT, source VARCHAR(20) NOT NULL, at TIMESTAMP NOT NULL,
    PRIMARY KEY (namespace, revision, name)
);
CREATE INDEX waffle_change_by_name ON waffle_change (namespace, name, revision);
INSERT INTO waffle_namespace (name, lineage, revision) VALUES ('default', '0123456789abcdef', 2);
INSERT INTO waffle_setting VALUES ('default', 'SITENAME', '"Two"', 2)
"""


def old_change(revision: int, old: str, new: str) -> str:
    """Return the statement by which release 0.1.0 logs a change."""
    return (
        "INSERT INTO waffle_change (namespace, revision, name, old, new, is_default, actor, "  # noqa: S608  # ours
        f"comment, source, at) VALUES ('default', {revision}, 'SITENAME', '\"{old}\"', "
        f"'\"{new}\"', false, NULL, NULL, 'python', '2026-01-0{revision} 12:00:00')"
    )


@pytest.fixture
def old_apps(database_apps: Apps) -> Apps:
    """Give a database of release 0.1.0 with two revisions."""
    changes = old_change(1, "Waffle", "One"), old_change(2, "One", "Two")
    execute(database_apps.database_uri, *OLD_DATABASE.split(";"), *changes)
    return database_apps


def at_once(count: int, act: Callable[[int], T]) -> list[T]:
    """Return what each of several threads returns that act at the same moment."""
    together = threading.Barrier(count)

    def run(number: int) -> T:
        together.wait()
        return act(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


# -- the first start -------------------------------------------------------------------------------


def test_a_namespace_is_made_once(make_store: MakeStore) -> None:
    stores = [make_store() for _ in range(4)]
    at_once(4, lambda number: stores[number].create_namespace())
    record = stores[0].read()
    assert record.position == Position(record.position.lineage, 0, "")
    assert len(record.keys) == 1
    assert [store.read() for store in stores] == [record] * 4
    stores[1].create_namespace()
    assert make_store().read() == record


def test_a_first_start_makes_the_namespace_in_tables_that_migrations_made(
    database_apps: Apps,
) -> None:
    uri = database_apps.database_uri
    with stores_for(uri) as make_store:
        make_store().database.create_tables()
    app, waffle = database_apps(WAFFLE_CONFS=CONFS, WAFFLE_AUTO_CREATE=False)
    record = state_of(app).store.read()
    assert (record.position.lineage, len(record.keys)) == (state_of(app).host.position.lineage, 1)
    assert waffle.update({"SIZE": 2}).revision == 1
    assert state_of(app).store.peek().lineage == record.position.lineage


def test_a_user_who_may_make_no_tables_is_told_so(tmp_path: Path) -> None:
    """As in a new database of PostgreSQL 15, whose schema is closed to all but its owner."""
    role = f"waffle_{secrets.token_hex(4)}"
    with fresh_database("postgresql") as url:
        execute(url, f"CREATE ROLE {role} LOGIN", "REVOKE CREATE ON SCHEMA public FROM public")
        poor = sa.make_url(url).set(username=role)
        try:
            with contextlib.closing(Apps(tmp_path, str(poor))) as apps:
                _, waffle = apps(WAFFLE_CONFS=CONFS)
                denied = "tables cannot be made in .*: permission denied for schema"
                with pytest.raises(StoreUnavailable, match=denied):
                    waffle.update({"SIZE": 2})
        finally:
            execute(url, f"DROP ROLE {role}")


def test_a_first_start_that_may_not_write_goes_on(
    database_apps: Apps, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_: object) -> None:
        message = "permission denied for table waffle_namespace"
        raise StoreUnavailable(message, url="")

    with monkeypatch.context() as patched:
        patched.setattr(Store, "create_namespace", refuse)
        app, waffle = database_apps(WAFFLE_CONFS=CONFS)
    assert waffle.settings.SIZE == 1
    assert state_of(app).reconciler.error is None
    assert "SQL does not answer" not in caplog.text


@pytest.mark.parametrize("kind", DATABASE_KINDS)
def test_writers_that_find_no_tables_all_succeed(kind: DatabaseKind) -> None:
    """A writer whose table was missing continues if another one has created it meanwhile."""

    def write(store: Store, number: int) -> Position:
        plan = {f"S{number}": RowChange("0", "1")}
        return store.write(lambda _: plan, Signature()).position

    for _ in range(times(4, 20)):
        with fresh_database(kind) as url, stores_for(url) as make_store:
            stores = [make_store() for _ in range(4)]
            positions = at_once(4, lambda number: write(stores[number], number))  # noqa: B023
            assert sorted(position.revision for position in positions) == [1, 2, 3, 4]
            assert len({position.lineage for position in positions}) == 1
            assert len({position.stamp for position in positions}) == 4


# -- tables of release 0.1.0 -----------------------------------------------------------------------


def test_a_start_upgrades_the_tables_of_0_1_0(old_apps: Apps) -> None:
    app, waffle = old_apps(WAFFLE_CONFS=CONFS)
    record = state_of(app).store.read()
    assert (record.position.lineage, record.revision) == (LINEAGE, 2)
    assert record.position.stamp
    assert len(record.keys) == 1
    assert state_of(app).host.position == record.position
    assert waffle.settings.SITENAME == "Two"
    assert [change.new for change in waffle.history()] == ["Two", "One"]
    assert waffle.update({"SIZE": 5}).revision == 3
    assert waffle.rollback(1).changes == {"SITENAME": ("Two", "One"), "SIZE": (5, 1)}
    there, _ = old_apps(WAFFLE_CONFS=CONFS, host="there")
    assert state_of(there).store.read().keys == record.keys


def test_processes_that_upgrade_at_once_agree(old_apps: Apps) -> None:
    with stores_for(old_apps.database_uri) as make_store:
        stores = [make_store() for _ in range(4)]
        at_once(4, lambda number: stores[number].create_namespace())
        records = [store.read() for store in stores]
    assert records == [records[0]] * 4
    assert len(records[0].keys) == 1


def test_a_write_upgrades_too_and_release_0_1_0_can_still_write(old_apps: Apps) -> None:
    """Processes of both releases run during an upgrade."""
    with stores_for(old_apps.database_uri) as make_store:
        store = make_store()
        written = store.write(lambda _: {"SIZE": RowChange("1", "5")}, Signature())
        assert (written.position.lineage, written.revision) == (LINEAGE, 3)
        assert written == store.read()
        assert len(written.keys) == 1
        execute(
            old_apps.database_uri,
            "UPDATE waffle_namespace SET revision = 4",
            "UPDATE waffle_setting SET value = '\"Four\"', revision = 4 WHERE name = 'SITENAME'",
            old_change(4, "Two", "Four"),
        )
        found = store.read()
        assert found.position.supersedes(written.position)
        assert (found.rows["SITENAME"], found.keys) == ('"Four"', written.keys)


def test_without_auto_create_tables_of_0_1_0_are_not_mistaken_for_empty_ones(
    old_apps: Apps, caplog: pytest.LogCaptureFixture
) -> None:
    """They are an error that names the command; after it all is served and the key is made."""
    app, waffle = old_apps(WAFFLE_CONFS=CONFS, WAFFLE_AUTO_CREATE=False)
    assert "starting with the declared defaults, as SQL does not answer" in caplog.text
    store = state_of(app).store
    for act in (waffle.refresh, store.peek, lambda: waffle.update({"SIZE": 2})):
        with pytest.raises(StoreUnavailable, match=r"Columns of the tables .* init-db"):
            act()
    store.database.create_tables()
    assert waffle.refresh()
    assert waffle.settings.SITENAME == "Two"
    assert waffle.update({"SIZE": 2}).revision == 3
    assert len(store.read().keys) == 1
    columns = {
        column["name"]
        for column in sa.inspect(store.database.engine).get_columns("waffle_namespace")
    }
    assert {"stamp", "keys"} <= columns


# -- stamps ----------------------------------------------------------------------------------------


def test_the_history_gives_the_stamp_of_each_revision(database_apps: Apps) -> None:
    app, waffle = database_apps(WAFFLE_CONFS=CONFS)
    state = state_of(app)
    stamps = {}
    for number in range(1, 4):
        waffle.update({"SIZE": 1 + number, "SITENAME": str(number)})
        position = state.store.peek()
        assert position == state.host.position == state.serving.current.position
        stamps[position.revision] = position.stamp
    assert len(set(stamps.values())) == 3
    assert state.history.stamps_from(1) == stamps
    assert state.history.stamps_from(3) == {3: stamps[3]}
    assert state.history.stamps_from(4) == {}
    resync(state.store, [replace(state.store.peek(), revision=9)])
    assert state.store.peek().stamp not in stamps.values()
    assert state.history.stamps_from(1) == stamps, "a revision without a change is not in it"


def test_a_commit_is_recognised_by_its_stamp(make_store: MakeStore) -> None:
    """After a lost answer, a commit of another writer must not be taken for one's own."""
    store = make_store()
    assert not store._was_committed(Position(LINEAGE, 1, "1" * 16))  # noqa: SLF001
    position = store.write(lambda _: {"SIZE": RowChange("1", "5")}, Signature()).position
    assert store._was_committed(position)  # noqa: SLF001
    assert not store._was_committed(replace(position, stamp="1" * 16))  # noqa: SLF001
    assert not store._was_committed(replace(position, revision=2))  # noqa: SLF001


def test_a_write_goes_past_what_a_host_has_seen_of_this_database(make_store: MakeStore) -> None:
    store = make_store()
    store.create_namespace()
    lineage = store.peek().lineage

    def write(value: int, beyond: Position = NOWHERE) -> Record:
        return store.write(
            lambda _: {"SIZE": RowChange("1", str(value))}, Signature(), beyond=beyond
        )

    assert write(2).revision == 1
    assert write(3, Position(lineage, 7, "1" * 16)).revision == 8
    assert write(4, Position(lineage, 5, "1" * 16)).revision == 9
    assert write(5, Position("f" * 16, 99, "1" * 16)).revision == 10
