"""``WaffleConf(db=...)``: in the database of an application that uses Flask-SQLAlchemy."""

from __future__ import annotations

import gc
import logging.config
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flask_migrate
import pytest
import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy

from tests.apps import shop
from tests.conftest import execute, state_of
from tests.sql.conftest import CONFS
from tests.support import DATABASE_KINDS, DatabaseKind, fresh_database
from uwsgi_waffle import ConfigError, StoreUnavailable, WaffleConf
from uwsgi_waffle.sql.schema import metadata

TABLES = set(metadata.tables)

MakeApp = Callable[..., Flask]


@pytest.fixture
def make_app(tmp_path: Path) -> Iterator[MakeApp]:
    """Make applications that are configured, and close what they hold at the end."""
    made: list[Flask] = []

    def make(uri: str | None = None, **config: Any) -> Flask:
        app = Flask("tests", instance_path=str(tmp_path))
        app.config.update(WAFFLE_CONFS=CONFS, WAFFLE_SNAPSHOT_PATH=str(tmp_path / "snapshot"))
        app.config.update(SQLALCHEMY_DATABASE_URI=uri or f"sqlite:///{tmp_path}/app.db", **config)
        made.append(app)
        return app

    yield make
    for app in made:
        close(app)


def close(app: Flask) -> None:
    """Close the connections of an application."""
    if "waffleconf" in app.extensions:
        state_of(app).store.database.close()
    if "sqlalchemy" in app.extensions:
        with app.app_context():
            for engine in app.extensions["sqlalchemy"].engines.values():
                engine.dispose()


def tables(uri: str) -> set[str]:
    """Return the names of the tables in a database."""
    engine = sa.create_engine(uri, poolclass=sa.NullPool)
    return set(sa.inspect(engine).get_table_names())


def test_create_all_makes_our_tables_among_those_of_the_application(
    make_app: MakeApp, database_url: str
) -> None:
    app, db = make_app(database_url), SQLAlchemy()
    db.init_app(app)
    waffle: WaffleConf[Any] = WaffleConf(app, db=db)
    assert tables(database_url) == set(), "a start makes none: migrations may be about to"
    with app.app_context():
        db.create_all()
    assert tables(database_url) == TABLES
    assert waffle.update({"SIZE": 2}).revision == 1
    with app.app_context():
        waffle.update({"SIZE": 3}, connection=db.session.connection())
        db.session.commit()
    assert (waffle.revision, waffle.settings.SIZE) == (2, 3)


def test_without_migrations_the_first_change_makes_the_tables(make_app: MakeApp) -> None:
    app, db = make_app(), SQLAlchemy()
    db.init_app(app)
    waffle: WaffleConf[Any] = WaffleConf(app, db=db)
    with app.app_context():
        waffle.update({"SIZE": 3}, connection=db.session.connection())
        db.session.commit()
    assert waffle.settings.SIZE == 3
    assert tables(app.config["SQLALCHEMY_DATABASE_URI"]) == TABLES


def test_connections_are_made_as_those_of_the_application(make_app: MakeApp) -> None:
    """With its options, and with what it does to each connection."""
    app = make_app(SQLALCHEMY_ENGINE_OPTIONS={"connect_args": {"timeout": 3}, "pool_size": 2})
    db = SQLAlchemy(app)
    made: list[Any] = []
    with app.app_context():
        sa.event.listen(db.engine, "do_connect", lambda *given: made.append(given[-1]))
        WaffleConf(app, db=db)
        engine = state_of(app).store.database.engine
        assert engine is not db.engine
        db.create_all()
    made.clear()
    state_of(app).store.read()
    assert [given["timeout"] for given in made] == [3]
    assert engine.pool.size() == 2  # type: ignore[attr-defined]  # of a QueuePool


def test_an_application_that_commits_each_statement_leaves_our_changes_whole(
    make_app: MakeApp, database_url: str
) -> None:
    """Else what fails half way, or loses a race, would be there in part."""
    options = {"isolation_level": "AUTOCOMMIT"}
    app = make_app(database_url, SQLALCHEMY_ENGINE_OPTIONS=options)
    db = SQLAlchemy(app)
    waffle: WaffleConf[Any] = WaffleConf(app, db=db)
    waffle.update({"SIZE": 2})

    def fail_half_way(connection: sa.Connection) -> None:
        connection.execute(sa.text("DELETE FROM waffle_setting"))
        raise InterruptedError

    with pytest.raises(InterruptedError):
        state_of(app).store.database.write(fail_half_way)
    assert execute(database_url, "SELECT value FROM waffle_setting") == [("2",)]
    with app.app_context(), pytest.raises(TypeError, match="nothing to join"):
        waffle.update({"SIZE": 3}, connection=db.session.connection())


def test_a_bind_is_named_by_its_key(make_app: MakeApp, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/settings.db"
    app = make_app(SQLALCHEMY_BINDS={"settings": uri}, WAFFLE_BIND_KEY="settings")
    db = SQLAlchemy(app)
    waffle: WaffleConf[Any] = WaffleConf(app, db=db)
    with app.app_context():
        db.create_all()
    waffle.update({"SIZE": 2})
    assert (tables(uri), tables(app.config["SQLALCHEMY_DATABASE_URI"])) == (TABLES, set())


def test_a_schema_of_the_application_is_not_that_of_our_tables(make_app: MakeApp) -> None:
    app = make_app()
    db = SQLAlchemy(app, metadata=sa.MetaData(schema="shop"))
    WaffleConf(app, db=db)
    assert set(db.metadata.tables) == TABLES
    assert db.metadata.schema == "shop"


@pytest.mark.parametrize(
    ("config", "initialise", "message"),
    [
        ({}, False, r"call db\.init_app\(app\) first"),
        ({"WAFFLE_BIND_KEY": "x"}, True, r"WAFFLE_BIND_KEY = 'x': db has no such bind, but None"),
        ({"WAFFLE_DATABASE_URI": "sqlite://u:pw@/a"}, True, r"= 'sqlite://u:\*\*\*@/a': db= names"),
    ],
)
def test_a_database_that_cannot_be_told_is_an_error(
    make_app: MakeApp, config: dict[str, Any], message: str, *, initialise: bool
) -> None:
    app, db = make_app(**config), SQLAlchemy()
    if initialise:
        db.init_app(app)
    with pytest.raises(ConfigError, match=message):
        WaffleConf(app, db=db)


def test_a_bind_without_db_is_an_error(make_app: MakeApp) -> None:
    with pytest.raises(ConfigError, match=r"WAFFLE_BIND_KEY = 'x': there is no db="):
        WaffleConf(make_app(WAFFLE_BIND_KEY="x"))


# -- an application of ordinary size ---------------------------------------------------------------


class Shop:
    """The shop, set up anew for each command, as in a process of its own."""

    def __init__(self, uri: str, directory: Path) -> None:
        self.uri = uri
        self.directory = directory
        self.migrations = str(directory / "migrations")

    def app(self) -> Flask:
        return shop.create_app(self.uri, str(self.directory))

    def flask_db(self, command: Callable[..., Any], **options: Any) -> None:
        """Run `flask db COMMAND`."""
        app = self.app()
        with app.app_context():
            command(directory=self.migrations, **options)
        close(app)
        gc.collect()

    @property
    def scripts(self) -> list[str]:
        return [path.read_text() for path in Path(self.migrations, "versions").glob("*.py")]


# Flask-Migrate asks Flask-SQLAlchemy in a way that is about to go.
@pytest.mark.filterwarnings("ignore:'get_engine' is deprecated:DeprecationWarning")
@pytest.mark.parametrize("kind", DATABASE_KINDS)
def test_flask_migrate_makes_the_tables_and_then_finds_nothing_to_do(
    kind: DatabaseKind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its env.py would silence the loggers of this process.
    monkeypatch.setattr(logging.config, "fileConfig", lambda *_: None)
    with fresh_database(kind) as uri:
        site = Shop(uri, tmp_path)
        site.flask_db(flask_migrate.init)
        site.flask_db(flask_migrate.migrate, message="first")
        assert tables(uri) <= {"alembic_version"}
        (script,) = site.scripts
        assert all(f"create_table('{name}'" in script for name in TABLES)

        app = site.app()
        with pytest.raises(StoreUnavailable, match=r"`flask db upgrade`"):
            shop_update(app)
        assert not TABLES & tables(uri), "a change leaves the tables to the migrations"
        close(app)

        site.flask_db(flask_migrate.upgrade)
        assert tables(uri) == {*TABLES, "order", "alembic_version"}
        site.flask_db(flask_migrate.migrate, message="second")
        assert site.scripts == [script], "an empty diff makes no script"
        site.flask_db(flask_migrate.check)

        app = site.app()
        client = app.test_client()
        assert client.post("/desk/promote/refused").json == {
            "revision": 1,
            "before": "Waffle",
            "after": "Waffle",
        }
        assert client.get("/").json == {"shop": "Waffle", "orders": 0}
        assert client.post("/desk/promote/cakes").json == {
            "revision": 1,
            "before": "Waffle",
            "after": "cakes",
        }
        assert client.get("/").json == {"shop": "cakes", "orders": 1}
        assert execute(uri, "SELECT revision FROM waffle_namespace") == [(1,)]
        close(app)


def shop_update(app: Flask) -> None:
    """Change a setting of the shop."""
    with app.app_context():
        shop.waffle.update({"SHOP": "early"})
