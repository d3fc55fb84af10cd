"""A listener that could not start, or has ended, is started again."""

from __future__ import annotations

import gc
import threading
from pathlib import Path

import pytest
from flask import Flask

from tests.conftest import Apps, state_of
from tests.support.waiting import NEVER_SECONDS, SOON_SECONDS, wait_until
from uwsgi_waffle import WaffleConf, WaffleSettings


class Settings(WaffleSettings):
    """One setting to change."""

    A: int = 0


def test_a_request_succeeds_without_a_thread_and_a_later_one_starts_the_listener(
    apps: Apps, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    app, waffle = apps(Settings, WAFFLE_MULTIPROC=True, WAFFLE_POLL_SECONDS=0.1)
    app.add_url_rule("/", "read", lambda: f"{waffle.settings.A}")
    state = state_of(app)

    def refuse(_: threading.Thread) -> None:
        message = "can't start new thread"
        raise RuntimeError(message)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert app.test_client().get("/").text == "0"
    assert "cannot start (can't start new thread)" in caplog.text

    def listens() -> bool:
        app.test_client().get("/")
        return state.environment is not None and state.environment.is_alive()

    wait_until(listens, SOON_SECONDS, "a listener that runs")


def test_a_listener_ends_with_its_application(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    app = Flask(__name__)
    app.config.update(
        WAFFLE_DATABASE_URI=f"sqlite:///{tmp_path}/waffle.db",
        WAFFLE_SNAPSHOT_PATH=f"{tmp_path}/host",
        WAFFLE_MULTIPROC=True,
        WAFFLE_POLL_SECONDS=NEVER_SECONDS,
        WAFFLE_REDIS_URL="redis://127.0.0.1:1/0",
    )
    waffle = WaffleConf(app, Settings)
    app.add_url_rule("/", "read", lambda: "read")
    app.test_client().get("/")
    begun = set(threading.enumerate()) - before
    # The first request also asks SQL, in a thread that may still rest.
    (listener,) = [thread for thread in begun if thread.name == "waffle-listener"]
    assert listener.is_alive()
    del app, waffle, begun

    def has_ended() -> bool:
        gc.collect()
        return not listener.is_alive()

    wait_until(has_ended, SOON_SECONDS, "the end of the listener")
