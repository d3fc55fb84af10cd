"""A Celery whose jobs read the settings of `tests.apps.whole_numbers`."""

from __future__ import annotations

import os
import time
from typing import Any

from celery import Celery

from tests.apps.whole_numbers import waffle

jobs: Any = Celery(
    "jobs", broker=os.environ["TEST_BROKER_URL"], backend=os.environ["TEST_BROKER_URL"]
)
# Each child takes one job at a time, so that each gets one where all are held.
jobs.conf.worker_prefetch_multiplier = 1


def read(hold_seconds: float) -> tuple[int, int]:
    """Return this process's pid, and the setting that it serves."""
    time.sleep(hold_seconds)
    return os.getpid(), waffle.settings.S000


jobs.task(name="read")(read)
