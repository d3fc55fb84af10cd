"""The first writes to a database without tables, all at once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from flask import Flask

from tests.support import DATABASE_KINDS, DatabaseKind, fresh_database
from uwsgi_waffle.config import Config
from uwsgi_waffle.sql.store import RowChange, Signature, Store

WRITERS = 4
ROUNDS = 12


@pytest.mark.parametrize("kind", DATABASE_KINDS)
def test_writers_that_find_no_tables_all_succeed(kind: DatabaseKind) -> None:
    """A writer whose table was missing goes on if another one has created it by then."""
    for _ in range(ROUNDS):
        with fresh_database(kind) as database_uri:
            app = Flask("first")
            app.config["WAFFLE_DATABASE_URI"] = database_uri
            config = Config.from_app(app)
            stores = [Store(config) for _ in range(WRITERS)]
            together = threading.Barrier(WRITERS)

            def write(number: int) -> int:
                together.wait()  # noqa: B023  all have ended before the next round
                plan = {f"S{number}": RowChange("0", "1")}
                return stores[number].write(lambda _: plan, Signature()).revision  # noqa: B023

            try:
                with ThreadPoolExecutor(WRITERS) as pool:
                    revisions = sorted(pool.map(write, range(WRITERS)))
            finally:
                for store in stores:
                    store.database.close()
            assert revisions == list(range(1, WRITERS + 1))
