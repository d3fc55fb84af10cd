"""A timer and a cron job of uWSGI's, beside our signal, for `tests.apps.whole_numbers`.

Each writes down what the process that runs it serves.
"""

from __future__ import annotations

import os
from typing import Any

import uwsgi

from tests.apps.whole_numbers import app


def write_down(name: str) -> None:
    """Add a line to the journal of the jobs."""
    waffle: Any = app.extensions["test_waffle"]
    with open(os.environ["TEST_JOURNAL"] + ".jobs", "ab", buffering=0) as file:  # noqa: PTH123
        file.write(f"{name} {waffle.settings.S000}\n".encode())


TIMER, CRON = 20, 21
uwsgi.register_signal(TIMER, "worker", lambda _: write_down("timer"))
uwsgi.add_timer(TIMER, 1)
uwsgi.register_signal(CRON, "worker", lambda _: write_down("cron"))
uwsgi.add_cron(CRON, -1, -1, -1, -1, -1)
