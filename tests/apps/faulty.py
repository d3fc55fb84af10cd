"""The app of `whole_numbers`, with faults in it that a test asks for."""

from __future__ import annotations

import os
import signal
import threading
import time
from datetime import datetime, timedelta, tzinfo
from unittest import mock

from flask import request
from typing_extensions import Self

from tests.apps.whole_numbers import app, state, waffle
from uwsgi_waffle.sql import store


@app.post("/die/<moment>")
def update_and_die(moment: str) -> str:
    """Change settings, and be killed when that is `committed`, or `spread` on this host."""

    def die(*_: object) -> bool:
        os.kill(os.getpid(), signal.SIGKILL)
        return False

    if moment == "committed":
        state.host.publish = die  # type: ignore[assignment, method-assign]
    else:
        state.bus.announce = die  # type: ignore[assignment, method-assign]
    waffle.update(request.get_json())
    return "it did not die"


@app.post("/clock")
def shift_clock() -> str:
    """Set this process's clock so many seconds off; the monotonic clock stays right."""
    seconds: float = request.get_json()
    right_time, right_time_ns = time.time, time.time_ns

    class Shifted(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return super().now(tz) + timedelta(seconds=seconds)

    time.time = lambda: right_time() + seconds
    time.time_ns = lambda: right_time_ns() + int(seconds * 1e9)
    store.datetime = Shifted  # type: ignore[attr-defined]
    return "shifted"


if "TEST_REQUEST_IN_MASTER" in os.environ:
    # As an app does that warms its caches before the fork.
    with mock.patch.object(threading.Thread, "start", autospec=True) as started:
        app.test_client().get("/")
    print(f"threads started in the master: {started.call_count}", flush=True)  # noqa: T201  for the log
