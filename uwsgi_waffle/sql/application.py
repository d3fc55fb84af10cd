"""The database of an application that uses Flask-SQLAlchemy, which is not imported here."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import sqlalchemy as sa

from uwsgi_waffle.errors import ConfigError

from .engine import engine_of

if TYPE_CHECKING:
    from flask import Flask

__all__ = ["ApplicationDatabase", "FlaskDatabase", "missing"]


class FlaskDatabase(Protocol):
    """What of Flask-SQLAlchemy (3.0 or later) is used."""

    @property
    def engines(self) -> Mapping[str | None, sa.Engine]:
        """The engine of each bind key, for the current application."""
        ...

    @property
    def metadatas(self) -> Mapping[str | None, sa.MetaData]:
        """The tables of each bind key."""
        ...


class ApplicationDatabase:
    """A database that an application has configured, with our tables among its own.

    Connections are made as the application's are, but belong to an engine of our own. That of the
    application has neither our isolation level nor our care at a fork, and to read settings in the
    middle of its transactions must not disturb them.
    """

    def __init__(self, app: Flask, db: FlaskDatabase) -> None:
        """Put our tables among those of the application; do not connect.

        :raises ConfigError: *db* is not set up for this application, or has no such bind
        """
        bind_key: str | None = app.config.get("WAFFLE_BIND_KEY")
        if app.extensions.get("sqlalchemy") is not db:
            message = (
                "db= must be the application's Flask-SQLAlchemy (3.0 or later), set up before: "
                "call db.init_app(app) first."
            )
            raise ConfigError(message)
        with app.app_context():
            engines = db.engines
        if bind_key not in engines:
            known = ", ".join(repr(key) for key in engines)
            message = f"WAFFLE_BIND_KEY = {bind_key!r}: db has no such bind, but {known}."
            raise ConfigError(message, key="WAFFLE_BIND_KEY", value=bind_key)
        self._engine = engines[bind_key]
        self._app = weakref.ref(app)
        _add_tables(db.metadatas[bind_key])

    @property
    def url(self) -> sa.URL:
        """Where the database is."""
        url: sa.URL = self._engine.url
        return url

    @property
    def is_migrated(self) -> bool:
        """Whether the application makes its tables, and so ours, by Flask-Migrate."""
        app = self._app()
        return app is not None and "migrate" in app.extensions

    def make_engine(self) -> sa.Engine:
        """Return an engine of our own, which connects and pools as the application's does."""
        # A new pool each time, with the options and events of the application's.
        return engine_of(self.url, pool=self._engine.pool.recreate())


def missing(url: str, application: ApplicationDatabase | None, what: str = "The tables") -> str:
    """Return the message that the tables are missing in a database, or columns of them."""
    how = "Run `flask waffle init-db` or your migrations, or set WAFFLE_AUTO_CREATE to True."
    if application is not None and application.is_migrated:
        how = "Run `flask db migrate` and `flask db upgrade`."
    return f"{what} of the settings are missing in {url}. {how}"


def _add_tables(target: sa.MetaData) -> None:
    """Add our tables to the metadata of the application, for Alembic and ``create_all``.

    Without the schema that the application may have chosen for its own.
    """
    from . import schema as ours

    schema, target.schema = target.schema, None
    try:
        for table in ours.metadata.tables.values():
            if table.name not in target.tables:
                table.to_metadata(target)
    finally:
        target.schema = schema
