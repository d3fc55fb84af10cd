"""Celery and RQ as real processes, whose jobs read the settings of `tests.apps.whole_numbers`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import redis

from tests.support.other_servers import HOLD_SECONDS, WebServer
from tests.support.waiting import SOON_SECONDS, wait_until

__all__ = ["Celery", "JobWorkers", "Rq"]


class JobWorkers(WebServer):
    """Processes that take jobs from a broker, which is a Redis of its own."""

    #: What each process, or the one that started them, logs when it takes jobs.
    ready_line: ClassVar[str]
    #: How many processes say so; 0 where each worker does.
    ready_lines: ClassVar[int] = 0

    def __init__(self, environment: Mapping[str, str], *, broker_url: str, workers: int) -> None:
        """Choose the broker and the number of processes."""
        super().__init__({**environment, "TEST_BROKER_URL": broker_url}, workers=workers)
        self.broker_url = broker_url

    def answers(self) -> bool:
        """Whether the processes take jobs."""
        return self.log().count(self.ready_line) >= (self.ready_lines or self.workers)

    def read_from_each(self) -> list[dict[str, Any]]:
        """Return what jobs read, as many as there are processes and more."""
        found = self.run_jobs(2 * self.workers, HOLD_SECONDS)
        return [{"pid": pid, "values": {"S000": value}} for pid, value in found]

    @abstractmethod
    def run_jobs(self, count: int, hold_seconds: float) -> Sequence[tuple[int, int]]:
        """Return the pid and the setting of each of so many jobs."""


class Celery(JobWorkers):
    """Celery's prefork pool, which loads the application before it forks."""

    name = "celery"
    ready_line = " ready."
    ready_lines = 1

    def program(self) -> list[str]:
        """Return the arguments of Python."""
        pool = "--pool", "prefork", "--concurrency", str(self.workers)
        quiet = "--without-gossip", "--without-mingle", "--loglevel", "INFO"
        return ["-m", "celery", "-A", "tests.apps.celery_jobs:jobs", "worker", *pool, *quiet]

    def run_jobs(self, count: int, hold_seconds: float) -> Sequence[tuple[int, int]]:
        """Return the pid and the setting of each of so many jobs."""
        import celery

        client: Any = celery.Celery(broker=self.broker_url, backend=self.broker_url)
        with client:
            asked = [client.send_task("read", args=[hold_seconds]) for _ in range(count)]
            return [tuple(one.get(timeout=SOON_SECONDS)) for one in asked]


class Rq(JobWorkers):
    """A pool of RQ's workers; each forks a process for each job."""

    name = "rq"
    ready_line = "*** Listening on"

    def program(self) -> list[str]:
        """Return the arguments of Python."""
        return ["-m", "tests.apps.rq_jobs", str(self.workers)]

    def run_jobs(self, count: int, hold_seconds: float) -> Sequence[tuple[int, int]]:
        """Return the pid and the setting of each of so many jobs."""
        import rq

        with redis.Redis.from_url(self.broker_url) as connection:
            queue = rq.Queue(connection=connection)
            asked = [queue.enqueue("tests.apps.rq_jobs.read", hold_seconds) for _ in range(count)]

            def done() -> bool:
                return all(job.get_status(refresh=True) == "finished" for job in asked)

            wait_until(done, SOON_SECONDS, "RQ has done the jobs")
            return [tuple(job.return_value()) for job in asked]
