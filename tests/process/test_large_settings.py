"""Settings that do not fit into the host snapshot: refused at a write, and never published."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from pydantic import model_validator

from tests.conftest import Apps, execute, state_of
from tests.support.command_line import run_in_process
from tests.support.waiting import SOON_SECONDS, wait_until
from uwsgi_waffle import InvalidSetting, Update, WaffleSettings
from uwsgi_waffle.host import layout
from uwsgi_waffle.values.declaration import MAX_VALUE_BYTES

NAMES = [f"TEXT_{number}" for number in range(5)]
CONFS = {name: {"default": ""} for name in NAMES}
#: Fits by itself; four of them do not.
LARGE = layout.ROOM_BYTES // 4


def test_a_change_that_makes_the_settings_too_large_is_refused(apps: Apps) -> None:
    """Whatever makes them smaller is not, also in the same change."""
    app, waffle = apps(WAFFLE_CONFS=CONFS)
    waffle.update(dict.fromkeys(NAMES[:3], "a" * LARGE))
    with pytest.raises(InvalidSetting, match=r"all settings take 52\d,\d{3} bytes; the most is"):
        waffle.update({"TEXT_3": "b" * LARGE})
    assert (waffle.revision, waffle.settings.TEXT_3) == (1, "")
    waffle.update({"TEXT_2": "", "TEXT_3": "b" * LARGE})
    state_of(app).writer.update({"TEXT_4": "c" * LARGE}, resets=["TEXT_3"])
    assert (waffle.settings.TEXT_3, waffle.settings.TEXT_4) == ("", "c" * LARGE)
    waffle.rollback(1)
    assert waffle.settings.TEXT_2 == "a" * LARGE


def _overfill(apps: Apps) -> None:
    """Store settings that are too large, as a release without that limit may have done."""
    text = json.dumps("x" * LARGE)
    execute(
        apps.database_uri,
        "DELETE FROM waffle_setting",
        *(
            f"INSERT INTO waffle_setting VALUES ('default', '{name}', '{text}', 2)"  # noqa: S608  all ours
            for name in NAMES
        ),
        "UPDATE waffle_namespace SET revision = 2, stamp = '00000000000000aa'",
    )


def test_settings_too_large_in_sql_leave_the_last_known_ones_in_place(
    apps: Apps, caplog: pytest.LogCaptureFixture
) -> None:
    """In every process of the host, logged once each; a smaller revision is served again."""
    config: dict[str, Any] = {"WAFFLE_CONFS": CONFS, "WAFFLE_POLL_SECONDS": 0.1}
    app, waffle = apps(**config)
    waffle.update({"TEXT_0": "small"})
    app.add_url_rule("/", "view", lambda: f"{waffle.revision} {waffle.settings.TEXT_0}")
    _overfill(apps)
    for _ in range(3):
        assert waffle.refresh() is False
        assert read(app) == "1 small"
    assert [r.getMessage() for r in caplog.records if "has room for" in r.getMessage()] == [
        caplog.records[-1].getMessage()
    ]
    late, _ = apps(**config)
    assert state_of(late).serving.current.settings.model_dump()["TEXT_0"] == "small"
    alone, _ = apps(host="there", **config)
    assert state_of(alone).serving.current.revision == 0
    assert waffle.reset(*NAMES[1:]).revision == 3
    wait_until(lambda: read(app).startswith("3 xxx"), SOON_SECONDS, "the change is served")
    assert [r for r in caplog.records if r.levelno > logging.WARNING] == []


def read(app: Flask) -> str:
    """Return what a request sees."""
    return app.test_client().get("/").text


class Plain(WaffleSettings):
    """Settings that are validated one by one."""

    TEXT: str = "default"
    OTHER: int = 1


class Whole(Plain):
    """Settings that are validated together."""

    @model_validator(mode="after")
    def _check(self) -> Whole:
        return self


@pytest.mark.parametrize("model", [Plain, Whole])
def test_a_value_larger_than_allowed_can_be_read_and_replaced(
    apps: Apps, model: type[Plain]
) -> None:
    """Another program has stored it."""
    app, waffle = apps(model)
    waffle.update({"TEXT": "small"})
    large = "x" * (MAX_VALUE_BYTES + 1)
    store_text(apps, large)
    assert waffle.refresh()
    assert run_in_process(app, "export").json["settings"]["TEXT"] == large
    assert large in run_in_process(app, "get", "TEXT").output
    assert waffle.update({"TEXT": large}).revision == 2, "an equal value makes no revision"
    with pytest.raises(InvalidSetting, match=r"TEXT: .* 262,148 bytes as JSON; the most is 262,1"):
        waffle.update({"TEXT": large + "x"})
    replacements: tuple[tuple[Callable[[], Update], str], ...] = (
        (lambda: waffle.reset("TEXT"), "default"),
        (lambda: waffle.rollback(1), "small"),
        (lambda: waffle.rollback(0), "default"),
        (lambda: waffle.update({"TEXT": "other"}), "other"),
    )
    for replace, expected in replacements:
        store_text(apps, large)
        waffle.refresh()
        assert replace().changes == {"TEXT": (large, expected)}
    with pytest.raises(InvalidSetting, match="the most is 262,144"):
        waffle.rollback(2)
    store_text(apps, large)
    waffle.refresh()
    assert waffle.update({"OTHER": 2}).changes == {"OTHER": (1, 2)}


def store_text(apps: Apps, text: str) -> None:
    """Store a value of TEXT, and its line of history, as the next revision."""
    value = json.dumps(text)
    revision = int(execute(apps.database_uri, "SELECT revision FROM waffle_namespace")[0][0]) + 1
    stamp = f"{revision:016x}"
    execute(
        apps.database_uri,
        "DELETE FROM waffle_setting WHERE name = 'TEXT'",
        f"INSERT INTO waffle_setting VALUES ('default', 'TEXT', '{value}', {revision})",  # noqa: S608  all ours
        "INSERT INTO waffle_change (namespace, revision, name, old, new, source, stamp, at) VALUES "  # noqa: S608  all ours
        f"('default', {revision}, 'TEXT', '0', '{value}', 'cli', '{stamp}', '2026-01-01 12:00:00')",
        f"UPDATE waffle_namespace SET revision = {revision}, stamp = '{stamp}'",  # noqa: S608  all ours
    )
