"""Code for Flask-WaffleConf works, or is refused with the sentence that says what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask

from tests.conftest import Apps
from tests.support.waiting import NEVER_SECONDS
from uwsgi_waffle import ConfigError, UnknownSetting, WaffleConf

CONFS: dict[str, dict[str, Any]] = {
    "SITENAME": {"desc": "Shown in the header", "default": "Waffle"},
    "SIZE": {"default": 1},
}


#: As code without annotations calls it; type checkers refuse each form.
_make: Any = WaffleConf
FORMS: dict[str, Callable[[Flask, object], object]] = {
    "WaffleConf(app, store)": _make,
    "WaffleConf(app, configstore=store)": lambda app, store: _make(app, configstore=store),
    "WaffleConf(configstore=store)": lambda _, store: _make(configstore=store),
    "init_app(app, store)": lambda app, store: _make().init_app(app, store),
    "init_app(app, configstore=store)": lambda app, store: _make().init_app(app, configstore=store),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_store_is_left_out(apps: Apps, form: str) -> None:
    app = apps.flask(WAFFLE_CONFS=CONFS)
    with pytest.raises(
        ConfigError, match=r"leave it out, as in WaffleConf\(app\) and waffle\.init"
    ):
        FORMS[form](app, object())
    apps.init(WaffleConf(), app)


def test_the_state_of_the_extension_has_the_three_methods(apps: Apps) -> None:
    app, waffle = apps(WAFFLE_CONFS=CONFS, WAFFLE_POLL_SECONDS=NEVER_SECONDS)
    state = waffle.state
    assert state is app.extensions["waffleconf"]
    assert state.parse_conf() == {"SITENAME": "Waffle", "SIZE": 1}
    state.update_db({"SITENAME": "New"})
    assert state.parse_conf(["SITENAME"]) == {"SITENAME": "New"}
    assert app.config["SITENAME"] == waffle.settings.SITENAME == "New"
    elsewhere, there = apps(WAFFLE_CONFS=CONFS, host="there", WAFFLE_POLL_SECONDS=NEVER_SECONDS)
    assert there.settings.SITENAME == "New"
    waffle.update({"SITENAME": "Newer"})
    assert there.settings.SITENAME == "New"
    there.state.update_conf()
    assert there.settings.SITENAME == elsewhere.config["SITENAME"] == "Newer"
    with pytest.raises(UnknownSetting):
        state.parse_conf(["C"])


@pytest.mark.parametrize("key", ["WAFFLE_WATCHTYPE", "WAFFLE_WATCHER_FILE"])
def test_there_is_no_watcher_to_choose(apps: Apps, key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key} is not.*Flask-WaffleConf had it; remove it"):
        apps(WAFFLE_CONFS=CONFS, **{key: "file"})


@pytest.mark.parametrize(
    ("confs", "fix"),
    [
        ({"sitename": {"default": "Waffle"}}, "Call it SITENAME"),
        ({"SITENAME": {"default": None}}, "Add a 'type', such as"),
    ],
)
def test_a_name_or_a_default_that_cannot_be_is_refused_with_the_fix(
    apps: Apps, confs: dict[str, Any], fix: str
) -> None:
    with pytest.raises(ConfigError, match=fix):
        apps(WAFFLE_CONFS=confs)


def test_a_default_of_none_has_a_type(apps: Apps) -> None:
    _, waffle = apps(WAFFLE_CONFS={"SITENAME": {"default": None, "type": str | None}})
    assert waffle.settings.SITENAME is None
    waffle.update({"SITENAME": "New"})
    assert waffle.settings.SITENAME == "New"
