"""Databases and stores for the tests of SQL."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flask import Flask

from tests.conftest import Apps
from tests.support import DATABASE_KINDS, DatabaseKind, fresh_database
from tests.support.soak import is_soak
from uwsgi_waffle.config import Config
from uwsgi_waffle.sql.store import Store

CONFS = {"SITENAME": {"default": "Waffle"}, "SIZE": {"default": 1}}

#: Makes a store for a namespace, as another process would.
MakeStore = Callable[[], Store]


@contextlib.contextmanager
def stores_for(url: str) -> Iterator[MakeStore]:
    """Give what makes stores on a database, and closes them at the end."""
    app = Flask("stores")
    app.config["WAFFLE_DATABASE_URI"] = url
    config = Config.from_app(app)
    made: list[Store] = []

    def make() -> Store:
        made.append(Store(config))
        return made[-1]

    try:
        yield make
    finally:
        for store in made:
            store.database.close()


@pytest.fixture
def make_store(database_url: str) -> Iterator[MakeStore]:
    """Make stores on a database of each kind."""
    with stores_for(database_url) as make:
        yield make


@contextlib.contextmanager
def _apps(kind: DatabaseKind, directory: Path) -> Iterator[Apps]:
    with fresh_database(kind) as url, contextlib.closing(Apps(directory, url)) as made:
        yield made


@pytest.fixture(params=DATABASE_KINDS if is_soak() else DATABASE_KINDS[:1])
def some_apps(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Apps]:
    """Make applications on one database, for what does not depend on its kind; in a soak on all."""
    with _apps(request.param, tmp_path) as made:
        yield made


@pytest.fixture(params=["postgresql", "mariadb"])
def server_apps(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Apps]:
    """Make applications on a database that is a server."""
    with _apps(request.param, tmp_path) as made:
        yield made
