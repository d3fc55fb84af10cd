"""What `update()` of one setting takes, beside the same rows in one bare SQLAlchemy transaction.

::

    python -m tests.bench.updates [sqlite] [postgresql] [mariadb]
"""

from __future__ import annotations

import random
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timezone
from typing import Any, cast

import sqlalchemy as sa
from flask import Flask

from tests.bench.table import compared, print_table
from tests.support import DatabaseKind, RedisServer, fresh_database
from uwsgi_waffle import WaffleConf
from uwsgi_waffle.sql import schema
from uwsgi_waffle.sql.declared import CHANGE, NAMESPACE, SETTING

CHANGES = 400
SETTINGS = 20
#: Turns on what a bare transaction has and the extension leaves off, for the sake of poolers.
PREPARED = "?prepare_threshold=5"


def main() -> None:
    """Print a table for each database that is named."""
    for kind in sys.argv[1:] or ["sqlite", "postgresql"]:
        with ExitStack() as stack:
            redis_server = stack.enter_context(RedisServer())
            bare = stack.enter_context(_bare(cast("DatabaseKind", kind)))
            what: dict[str, Callable[[int], object]] = {"a bare transaction": bare}
            for name, redis_url, query in (
                ("update()", None, ""),
                *((("update(), prepared", None, PREPARED),) if kind == "postgresql" else ()),
                ("update(), Redis", redis_server.url, ""),
            ):
                made = _waffled(cast("DatabaseKind", kind), redis_url, query)
                what[name] = stack.enter_context(made)
            rows = [*_compare(what)]
        print_table(f"updates {kind}", ("one setting", "µs", "ratio", "its quartiles"), rows)


def _compare(what: dict[str, Callable[[int], object]]) -> Iterator[list[str]]:
    """Measure by turns, in any order, so that noise and what one leaves running meet all alike."""
    found: dict[str, list[float]] = {name: [] for name in what}
    chosen = random.Random(1)  # noqa: S311  the same order each time
    for number in range(1, CHANGES + 1):
        for name in chosen.sample(list(what), len(what)):
            began = time.perf_counter()
            what[name](number)
            found[name].append(time.perf_counter() - began)
    return compared(found, 1e6)


@contextmanager
def _bare(kind: DatabaseKind) -> Iterator[Callable[[int], None]]:
    """Give what writes the rows of one change in a transaction of its own."""
    with fresh_database(kind) as uri:
        engine = sa.create_engine(uri)
        schema.metadata.create_all(engine)
        mine = {"namespace": "default", "revision": 0}
        with engine.begin() as connection:
            connection.execute(
                sa.insert(NAMESPACE), {"name": "default", "lineage": "0" * 16, "revision": 0}
            )
            rows = [{**mine, "name": f"S{n:03}", "value": "0"} for n in range(SETTINGS)]
            connection.execute(sa.insert(SETTING), rows)
        is_mine = SETTING.c.namespace == "default"

        def write(number: int) -> None:
            stamp = secrets.token_hex(8)
            at = datetime.now(timezone.utc).replace(tzinfo=None)
            line = {"name": "S000", "old": "0", "new": f"{number}", "is_default": False}
            log = {**line, "is_secret": False, "actor": None, "comment": None, "source": "python"}
            with engine.begin() as connection:
                connection.execute(
                    sa.update(NAMESPACE)
                    .where(NAMESPACE.c.name == "default")
                    .values(revision=number, stamp=stamp)
                )
                connection.execute(
                    sa.update(SETTING)
                    .where(is_mine, SETTING.c.name == "S000")
                    .values(value=f"{number}", revision=number)
                )
                connection.execute(
                    sa.insert(CHANGE), {**mine, **log, "revision": number, "stamp": stamp, "at": at}
                )

        yield write
        engine.dispose()


@contextmanager
def _waffled(
    kind: DatabaseKind, redis_url: str | None, query: str = ""
) -> Iterator[Callable[[int], object]]:
    """Give what makes one change through the extension; *query* ends the address of SQL."""
    with fresh_database(kind) as uri, tempfile.TemporaryDirectory() as folder:
        app = Flask("waffled")
        app.config.update(
            WAFFLE_CONFS={f"S{n:03}": {"default": 0} for n in range(SETTINGS)},
            WAFFLE_DATABASE_URI=uri + query,
            WAFFLE_SNAPSHOT_PATH=f"{folder}/snapshot",
            WAFFLE_POLL_SECONDS=3600,
            WAFFLE_MULTIPROC=redis_url is not None,
            WAFFLE_LISTENER="none",
        )
        if redis_url is not None:
            app.config["WAFFLE_REDIS_URL"] = redis_url
        waffle: WaffleConf[Any] = WaffleConf(app)
        waffle.update({f"S{n:03}": -1 for n in range(SETTINGS)})
        yield lambda number: waffle.update({"S000": number})
        state = app.extensions["waffleconf"]
        state.store.database.close()
        state.retire()


if __name__ == "__main__":
    main()
