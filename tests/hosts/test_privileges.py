"""Servers that load the application as root and then give up its privileges, without Redis.

Master, mule and workers end on the host snapshot of the user that serves: a change reaches each.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from tests.support import free_port, require
from tests.support.instance import Instance
from tests.support.other_servers import Gunicorn
from tests.support.waiting import NEVER_SECONDS
from uwsgi_waffle.config import Config
from uwsgi_waffle.host.files import default_path

NOBODY = 65534
WORKERS = 3
CHANGES = 10
#: Python imports it at the first request, which may be too late: it may be root's alone.
PRELOADED = "encodings.idna"


@contextmanager
def served_by_nobody(server: Gunicorn | Instance) -> Iterator[None]:
    """Run a server on the default path of the host snapshot, with a database of the user's own."""
    require(os.geteuid() == 0, "the right to become another user (root)")
    del server.environment["WAFFLE_SNAPSHOT_PATH"]
    database = server.directory / "waffle.db"
    database.touch()
    for path in (server.directory, database):
        os.chown(path, NOBODY, NOBODY)
    url = server.environment["WAFFLE_DATABASE_URI"]
    known = SimpleNamespace(namespace="default", database_uri=url)
    default = default_path(cast("Config", known))
    try:
        with server:
            yield
    finally:
        for found in default.parent.parent.glob(f"uwsgi_waffle-*/*{default.name}*"):
            Path(found).unlink()


def test_gunicorn_that_becomes_another_user_after_the_application_is_loaded() -> None:
    server = Gunicorn(
        {
            "WAFFLE_REDIS_URL": f"redis://127.0.0.1:{free_port()}/0",
            "WAFFLE_POLL_SECONDS": str(NEVER_SECONDS),
        },
        worker_class="sync",
        preload=True,
        workers=WORKERS,
        options=("--user", str(NOBODY), "--group", str(NOBODY), "--config", f"python:{PRELOADED}"),
    )
    with served_by_nobody(server):
        server.read_from_each()
        for value in range(1, CHANGES + 1):
            server.update({"S000": value})
            assert {answer["values"]["S000"] for answer in server.read_from_each()} == {value}


@pytest.mark.parametrize("mule", [None, "waffle"])
@pytest.mark.parametrize("dropped", ["drop-after-apps", "master-as-root"])
def test_uwsgi_that_becomes_another_user(dropped: str, mule: str | None) -> None:
    instance = Instance(
        {"uid": NOBODY, "gid": NOBODY, "mule": mule, dropped: True},
        {"shared-import": "uwsgi_waffle.boot", "import": PRELOADED},
        workers=WORKERS,
    )
    with served_by_nobody(instance):
        instance.assert_right(CHANGES)
