"""``update(..., connection=...)``: a change within a transaction of the caller's own."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from tests.conftest import Apps, execute, state_of
from tests.support import DatabaseKind, fresh_database
from uwsgi_waffle import InvalidSetting, RevisionConflict, WaffleConf, WaffleError
from uwsgi_waffle.process.state import State

CONFS = {"SITENAME": {"default": "Waffle"}, "SIZE": {"default": 1, "ge": 1}}


class Site:
    """An application with a table of its own, seen by another host."""

    def __init__(self, apps: Apps) -> None:
        self.apps = apps
        self.uri = apps.database_uri
        app, self.waffle = apps(WAFFLE_CONFS=CONFS)
        self.state: State = state_of(app)
        _, self.there = apps(WAFFLE_CONFS=CONFS, host="there")
        self.seen: list[Any] = []
        self.waffle.on_change("SITENAME")(self.seen.append)
        self.engine = sa.create_engine(self.uri)
        execute(self.uri, "CREATE TABLE orders (id INTEGER PRIMARY KEY)")

    def order(self, connection: sa.Connection | Session, number: int) -> None:
        connection.execute(sa.text("INSERT INTO orders VALUES (:id)"), {"id": number})

    @property
    def orders(self) -> list[int]:
        return [row[0] for row in execute(self.uri, "SELECT id FROM orders ORDER BY id")]

    def served(self, waffle: WaffleConf[Any] | None = None) -> tuple[int, str, int]:
        """Return what a process serves, without asking SQL."""
        settings = (waffle or self.waffle).settings
        return (waffle or self.waffle).revision, settings.SITENAME, settings.SIZE

    def stored(self) -> tuple[int, str, int]:
        """Return what another host finds in SQL."""
        self.there.refresh()
        return self.served(self.there)


@pytest.fixture
def site(database_apps: Apps) -> Iterator[Site]:
    made = Site(database_apps)
    yield made
    made.engine.dispose()


def test_it_is_spread_after_the_commit_and_not_before(site: Site) -> None:
    with site.engine.connect() as connection:
        site.order(connection, 1)
        update = site.waffle.update({"SITENAME": "New"}, actor="eve", connection=connection)
        assert (update.revision, update.changes) == (1, {"SITENAME": ("Waffle", "New")})
        assert not update.announced
        assert site.served() == (0, "Waffle", 1)
        assert (site.orders, site.seen) == ([], [])
        connection.commit()
        assert site.served() == (1, "New", 1)
        assert site.seen == ["New"]
        assert site.stored() == (1, "New", 1)
        assert site.orders == [1]
        site.order(connection, 2)
        connection.commit()  # says nothing about settings
    assert (site.served(), site.seen) == ((1, "New", 1), ["New"])
    assert site.waffle.history()[0].actor == "eve"


def test_it_is_forgotten_after_a_rollback(site: Site) -> None:
    with site.engine.connect() as connection:
        site.order(connection, 1)
        site.waffle.update({"SITENAME": "New"}, connection=connection)
        connection.rollback()
        assert site.served() == site.stored() == (0, "Waffle", 1)
        site.order(connection, 2)
        connection.commit()
    assert site.served() == site.stored() == (0, "Waffle", 1)
    assert (site.orders, site.seen) == ([2], [])
    assert site.waffle.update({"SIZE": 2}).revision == 1


def test_a_savepoint_that_is_rolled_back_takes_its_changes_along(site: Site) -> None:
    with site.engine.begin() as connection:
        site.order(connection, 1)
        assert site.waffle.update({"SITENAME": "One"}, connection=connection).revision == 1
        with contextlib.suppress(KeyError), connection.begin_nested():
            assert site.waffle.update({"SITENAME": "Two"}, connection=connection).revision == 2
            raise KeyError
        with connection.begin_nested():
            assert site.waffle.update({"SIZE": 5}, connection=connection).revision == 2
    assert site.served() == site.stored() == (2, "One", 5)
    with site.engine.begin() as connection:
        site.order(connection, 2)
        with contextlib.suppress(KeyError), connection.begin_nested():
            site.waffle.update({"SITENAME": "Three"}, connection=connection)
            raise KeyError
    assert site.served() == site.stored() == (2, "One", 5)
    assert (site.orders, site.seen) == ([1, 2], ["One"])


def test_a_savepoint_that_the_driver_rolls_back_is_seen_too(site: Site) -> None:
    with site.engine.begin() as connection:
        site.order(connection, 1)
        connection.execute(sa.text("SAVEPOINT own"))
        site.waffle.update({"SITENAME": "New"}, connection=connection)
        connection.execute(sa.text("ROLLBACK TO SAVEPOINT own"))
    assert site.served() == site.stored() == (0, "Waffle", 1)


def test_a_change_that_begins_the_transaction_is_part_of_it(site: Site) -> None:
    """SQLite's driver would begin none for a savepoint, whose release would commit."""
    with site.engine.connect() as connection:
        site.waffle.update({"SITENAME": "New"}, connection=connection)
        site.order(connection, 1)
        assert (site.orders, site.stored()[0]) == ([], 0)
        connection.rollback()
    assert (site.orders, site.stored()) == ([], (0, "Waffle", 1))


def test_a_session_commits_it_with_its_rows(site: Site) -> None:
    with Session(site.engine) as session:
        site.order(session, 1)
        site.waffle.update({"SITENAME": "New"}, connection=session.connection())
        session.commit()
        assert site.served() == (1, "New", 1)
        site.order(session, 2)
        site.waffle.reset("SITENAME", connection=session.connection())
        session.rollback()
        assert site.served() == (1, "New", 1)
        site.waffle.rollback(0, connection=session.connection())
        session.commit()
        assert site.served() == (2, "Waffle", 1)
    assert site.orders == [1]


def test_what_is_refused_leaves_the_transaction_as_it_was(site: Site) -> None:
    with site.engine.begin() as connection:
        site.order(connection, 1)
        with pytest.raises(InvalidSetting):
            site.waffle.update({"SIZE": 0}, connection=connection)
        with pytest.raises(RevisionConflict):
            site.waffle.update({"SIZE": 2}, expected_revision=7, connection=connection)
        site.waffle.update({"SIZE": 2}, connection=connection)
    assert (site.orders, site.served()) == ([1], (1, "Waffle", 2))


def test_a_transaction_that_has_read_an_older_state_changes_the_present_one(site: Site) -> None:
    """REPEATABLE READ, the default of MySQL and MariaDB, would read its own older state."""
    if site.engine.dialect.name != "mysql":
        pytest.skip("elsewhere the database refuses, or reads the present state")
    with site.engine.connect() as connection:
        site.order(connection, 1)
        connection.execute(sa.text("SELECT * FROM waffle_setting")).all()
        site.there.update({"SIZE": 7})
        update = site.waffle.update({"SITENAME": "New"}, connection=connection)
        assert update.revision == 2
        connection.commit()
    assert site.served() == site.stored() == (2, "New", 7)


def test_a_failed_commit_spreads_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_connection: object) -> None:
        raise KeyError

    with site.engine.connect() as connection:
        site.waffle.update({"SITENAME": "New"}, connection=connection)
        monkeypatch.setattr(site.engine.dialect, "do_commit", fail)
        with pytest.raises(KeyError):
            connection.commit()
        monkeypatch.undo()
    assert site.served() == site.stored() == (0, "Waffle", 1)


def test_after_the_commit_nothing_is_raised(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise KeyError

    monkeypatch.setattr(site.state.host, "publish", fail)
    with caplog.at_level(logging.ERROR), site.engine.begin() as connection:
        site.waffle.update({"SITENAME": "New"}, connection=connection)
    assert "revision 1 is committed, but could not be spread at once" in caplog.text
    assert site.stored() == (1, "New", 1)


@pytest.mark.parametrize("has_settings", [True, False])
def test_a_connection_to_another_database_is_refused(
    site: Site, request: pytest.FixtureRequest, *, has_settings: bool
) -> None:
    """Whether or not that one has tables of settings, which are not missing in ours."""
    kind: DatabaseKind = request.node.callspec.params["database_url"]
    with fresh_database(kind) as elsewhere:
        other = Apps(site.apps.directory / "other", elsewhere)
        if has_settings:
            other(WAFFLE_CONFS=CONFS)
        engine = sa.create_engine(elsewhere)
        with engine.connect() as connection, pytest.raises(WaffleError, match="not to"):
            site.waffle.update({"SIZE": 2}, connection=connection)
        engine.dispose()
        other.close()
    assert site.stored() == (0, "Waffle", 1)


def test_what_is_no_connection_with_a_transaction_is_refused(site: Site) -> None:
    wrong: Any = Session(site.engine)
    with pytest.raises(TypeError, match=r"such as db\.session\.connection\(\), not Session"):
        site.waffle.update({"SIZE": 2}, connection=wrong)
    autocommit = site.engine.execution_options(isolation_level="AUTOCOMMIT")
    with autocommit.connect() as connection, pytest.raises(TypeError, match="nothing to join"):
        site.waffle.update({"SIZE": 2}, connection=connection)
