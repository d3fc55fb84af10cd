"""A pool of RQ workers whose jobs read the settings of `tests.apps.whole_numbers`.

The application is loaded before the workers are forked, so each follows from its first moment, and
the process that it forks for a job has the present settings without a read of SQL. Its argument is
the number of workers.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import redis
from rq import Queue, Worker
from rq.worker_pool import WorkerPool

from tests.apps.whole_numbers import waffle


def read(hold_seconds: float) -> tuple[int, int]:
    """Return the pid of this job's process, and the setting that it serves."""
    time.sleep(hold_seconds)
    return os.getpid(), waffle.settings.S000


class WithoutScheduler(Worker):
    """A worker without RQ's scheduler, a process that outlives its worker where that is killed."""

    def work(self, *arguments: Any, **options: Any) -> bool:
        """Work until it is stopped."""
        return bool(super().work(*arguments, **{**options, "with_scheduler": False}))


if __name__ == "__main__":
    connection = redis.Redis.from_url(os.environ["TEST_BROKER_URL"])
    queue = Queue(connection=connection)
    pool = WorkerPool(
        [queue],
        connection=connection,
        num_workers=int(sys.argv[1]),
        worker_class=WithoutScheduler,
    )
    pool.start()
