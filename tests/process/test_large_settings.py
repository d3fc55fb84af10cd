"""Settings that do not fit into the host snapshot: only the revision travels there."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from tests.conftest import Apps, state_of
from tests.support import wait_until
from uwsgi_waffle.host import layout

CONFS = {f"TEXT_{number}": {"default": ""} for number in range(5)}
#: Fits by itself; five of them do not.
LARGE = layout.ROOM_BYTES // 4


def test_settings_that_do_not_fit_reach_the_next_request_of_another_process(
    apps: Apps, caplog: pytest.LogCaptureFixture
) -> None:
    """Values come from SQL, callbacks run, and the log says so once a process."""
    _, writer = apps(WAFFLE_CONFS=CONFS)
    app, reader = apps(WAFFLE_CONFS=CONFS)
    told: list[str] = []
    reader.on_change("TEXT_4")(lambda new: told.append(new[:1]))
    app.add_url_rule("/", "view", lambda: reader.settings.TEXT_4[:1])

    for letter in "ab":
        writer.update(dict.fromkeys(CONFS, letter * LARGE))
        assert app.test_client().get("/").text == letter
        found = state_of(app).host.read()
        assert found is not None
        assert found[1].rows is None, "the file has no room for them"

    assert told == ["a", "b"]
    assert reader.revision == 2
    said = [record for record in caplog.records if "take more than" in record.message]
    assert len(said) == 1, "the process that wrote says so"

    writer.reset(*CONFS)
    assert app.test_client().get("/").text == ""
    found = state_of(app).host.read()
    assert found is not None
    assert found[1].rows == {}, "small again, they travel in the file"


def test_an_application_starts_with_settings_that_do_not_fit(apps: Apps) -> None:
    _, writer = apps(WAFFLE_CONFS=CONFS)
    writer.update(dict.fromkeys(CONFS, "c" * LARGE))
    _, late = apps(WAFFLE_CONFS=CONFS)
    assert late.settings.TEXT_0 == "c" * LARGE
    assert late.revision == 1


def test_without_sql_the_last_good_values_are_served_until_it_answers(
    apps: Apps, tmp_path: Path
) -> None:
    """A revision whose values cannot be had is not taken for a set of defaults."""
    _, writer = apps(WAFFLE_CONFS=CONFS)
    writer.update({"TEXT_0": "small"})
    cut_off = f"sqlite:///{tmp_path}/road/waffle.db"
    app, reader = apps(WAFFLE_CONFS=CONFS, WAFFLE_DATABASE_URI=cut_off, WAFFLE_POLL_SECONDS=0.1)
    app.add_url_rule("/", "view", lambda: f"{reader.revision} {reader.settings.TEXT_0[:5]}")
    client = app.test_client()
    assert client.get("/").text == "1 small"

    writer.update(dict.fromkeys(CONFS, "large" * (LARGE // 5)))
    assert client.get("/").text == "1 small"
    (tmp_path / "road").symlink_to(tmp_path)

    wait_until(lambda: client.get("/").text == "2 large", 10, "the values come once SQL answers")


def test_an_application_that_starts_on_an_older_backup_serves_the_rest_once_it_is_there(
    apps: Apps, caplog: pytest.LogCaptureFixture
) -> None:
    """The host has seen a revision whose values are in no place that can be read at the moment."""
    _, writer = apps(WAFFLE_CONFS=CONFS)
    writer.update({"TEXT_0": "small"})
    live, older, newer = (apps.directory / f"{name}.db" for name in ("waffle", "older", "newer"))
    copy_database(live, older)
    writer.update(dict.fromkeys(CONFS, "large" * (LARGE // 5)))
    copy_database(live, newer)
    copy_database(older, live)
    app, late = apps(WAFFLE_CONFS=CONFS, WAFFLE_POLL_SECONDS=0.1)
    app.add_url_rule("/", "view", lambda: f"{late.revision} {late.settings.TEXT_0[:5]}")
    client = app.test_client()
    assert client.get("/").text == "1 small"
    assert "flask waffle resync" in caplog.text
    copy_database(newer, live)
    wait_until(lambda: client.get("/").text == "2 large", 10, "the values come with the database")
    assert not state_of(app)._owes_rows  # noqa: SLF001  else it reads them at each poll


def copy_database(source: Path, target: Path) -> None:
    """Put one database in the place of another, as SQLite does under those who have it open."""
    with (
        contextlib.closing(sqlite3.connect(source)) as there,
        contextlib.closing(sqlite3.connect(target)) as here,
    ):
        there.backup(here)
