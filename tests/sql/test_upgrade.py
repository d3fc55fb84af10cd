"""The tables over time: made and upgraded, by many processes at once and beside 0.1.0."""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection

import pytest
from flask import Flask

from tests.conftest import Apps, execute
from tests.sql.conftest import CONFS
from tests.sql.test_namespace import LINEAGE, OLD_DATABASE, old_change
from tests.support.waiting import SOON_SECONDS
from uwsgi_waffle import WaffleConf
from uwsgi_waffle.config import Config
from uwsgi_waffle.sql import database
from uwsgi_waffle.sql.store import Store

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([__name__])

PROCESSES = 20

Answer = tuple[str, int]


def start(uri: str, snapshot: str, test: Connection) -> None:
    """Make the tables when the test says so, start, and change a setting."""
    app = Flask("starter")
    app.config.update(WAFFLE_DATABASE_URI=uri, WAFFLE_SNAPSHOT_PATH=snapshot, WAFFLE_CONFS=CONFS)
    test.send("ready")
    test.recv()
    try:
        # At the first attempt: under the lock nothing depends on trying again.
        attempts, database.ATTEMPTS = database.ATTEMPTS, 1
        Store(Config.from_app(app)).database.create_tables()
        database.ATTEMPTS = attempts
        waffle = WaffleConf(app)
        revision = waffle.update({"SIZE": 2}).revision
        test.send((app.extensions["waffleconf"].store.peek().lineage, revision))
    except Exception as error:  # noqa: BLE001  # the test shows it
        test.send(f"{type(error).__name__}: {error}")


def start_at_once(apps: Apps) -> list[Answer]:
    """Return what each of the processes answers that start at the same moment."""
    started = []
    try:
        for number in range(PROCESSES):
            snapshot = str(apps.directory / f"host-{number}" / "snapshot")
            here, there = _context.Pipe()
            process = _context.Process(target=start, args=(apps.database_uri, snapshot, there))
            started.append((process, here))
            process.start()
            there.close()
        for word in ("go", None):
            answers = []
            for _, here in started:
                assert here.poll(SOON_SECONDS), "the process answers"
                answers.append(here.recv())
            for _, here in started:
                if word is not None:
                    here.send(word)
    finally:
        for process, here in started:
            process.kill()
            process.join(SOON_SECONDS)
            process.close()
            here.close()
    return answers


@pytest.mark.timeout(240)
def test_processes_that_start_at_once_on_an_empty_database_all_succeed(
    database_apps: Apps,
) -> None:
    answers = start_at_once(database_apps)
    assert answers == [(answers[0][0], 1)] * PROCESSES


@pytest.mark.timeout(240)
def test_processes_that_start_at_once_on_tables_of_0_1_0_all_succeed(database_apps: Apps) -> None:
    changes = old_change(1, "Waffle", "One"), old_change(2, "One", "Two")
    execute(database_apps.database_uri, *OLD_DATABASE.split(";"), *changes)
    assert start_at_once(database_apps) == [(LINEAGE, 3)] * PROCESSES
    _, waffle = database_apps(WAFFLE_CONFS=CONFS)
    assert (waffle.settings.SITENAME, waffle.settings.SIZE) == ("Two", 2)
    assert [change.new for change in waffle.history()] == [2, "Two", "One"]
