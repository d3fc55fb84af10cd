"""A uWSGI instance that serves `tests.apps.under_uwsgi`, each worker at a socket of its own."""

from __future__ import annotations

import contextlib
import random
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from flask import Flask

from tests.support import RedisServer, UwsgiServer, free_port, wait_until
from tests.support.processes import START_SECONDS
from tests.support.uwsgi_server import Options, ini_lines
from tests.support.waiting import NEVER_SECONDS, SOON_SECONDS
from uwsgi_waffle import WaffleConf

APP = "tests.apps.under_uwsgi:app"
#: What the documentation recommends.
BOOT: Options = {"shared-import": "uwsgi_waffle.boot", "mule": "waffle"}
#: The same without a mule.
ELECTED: Options = {"shared-import": "uwsgi_waffle.boot"}
LAZY: Options = {"lazy-apps": True}

NAMES = ("FIRST", "SECOND", "THIRD")


class Instance(UwsgiServer):
    """The instance, the namespace it has to itself, and the journal its callbacks write."""

    def __init__(
        self,
        *options: Options,
        workers: int = 4,
        redis: RedisServer | None = None,
        environment: Mapping[str, str] | None = None,
        separate: bool = True,
        ready_path: str | None = "/",
    ) -> None:
        """Choose what to start.

        :param options: one after another; a later one replaces what an earlier one has
        :param workers: how many
        :param redis: which Redis; ``None`` for one that does not answer
        :param environment: added to that of the app
        :param separate: give each worker a socket of its own beside the common one
        :param ready_path: what must answer before the instance counts as started
        """
        self.workers = workers
        self.redis = redis
        merged: dict[str, Any] = {"processes": workers, "module": APP, "disable-logging": True}
        for some in options:
            merged.update(some)
        merged = {name: value for name, value in merged.items() if value is not None}
        if separate:
            numbers = range(1, workers + 1)
            merged["map-socket"] = [f"{number}:{number}" for number in numbers]
        super().__init__(
            list(ini_lines(merged)),
            ports=1 + (workers if separate else 0),
            ready_path=ready_path,
        )
        self.journal_path = self.directory / "journal"
        self.environment.update(
            {
                "WAFFLE_MULTIPROC": "true",
                "WAFFLE_DATABASE_URI": f"sqlite:///{self.directory}/waffle.db",
                "WAFFLE_SNAPSHOT_PATH": str(self.directory / "snapshot"),
                "WAFFLE_REDIS_URL": redis.url if redis else f"redis://127.0.0.1:{free_port()}/0",
                "WAFFLE_REDIS_CHANNEL": self.channel,
                "WAFFLE_POLL_SECONDS": str(NEVER_SECONDS),
                "TEST_JOURNAL": str(self.journal_path),
                **(environment or {}),
            }
        )
        self._next_value = 0

    # What it serves

    def read(self, worker: int = 0, path: str = "/", **options: Any) -> dict[str, Any]:
        """Return what a worker serves, any of them where none is named."""
        answer = self.get(path, port=self.ports[worker], **options)
        assert answer.status == 200, answer.text
        found: dict[str, Any] = answer.json()
        assert worker in (0, found["worker"])
        return found

    def read_each(self) -> list[dict[str, Any]]:
        """Return what each worker serves; several times perhaps, where they share a socket."""
        if len(self.ports) > 1:
            return [self.read(worker) for worker in range(1, self.workers + 1)]
        answers: list[dict[str, Any]] = []

        def all_have_answered() -> bool:
            # Each request takes a moment, so that one worker cannot take them all.
            answers.extend(pool.map(lambda _: self.read(path="/?hold=0.02"), range(self.workers)))
            return len({answer["worker"] for answer in answers}) == self.workers

        with ThreadPoolExecutor(self.workers) as pool:
            wait_until(all_have_answered, SOON_SECONDS, "each worker has answered")
        return answers

    def states(self) -> list[dict[str, Any]]:
        """Return what each worker that has a socket of its own knows about its listener."""
        return [self.read(worker, "/state") for worker in range(len(self.ports))]

    # Changes, made here and elsewhere

    def update(self, value: int | None = None, worker: int | None = None) -> int:
        """Set all settings to one number through a worker, and return that number."""
        if value is None:
            self._next_value += 1
            value = self._next_value
        if worker is None:
            worker = random.randint(1, len(self.ports) - 1) if len(self.ports) > 1 else 0  # noqa: S311
        answer = self.post("/update", value, port=self.ports[worker])
        assert answer.status == 200, answer.text
        return value

    def assert_right(self, updates: int = 1) -> int:
        """Fail unless each worker serves each update at once; return the last value."""
        for _ in range(updates):
            value = self.update()
            for answer in self.read_each():
                assert_serves(answer, value)
        return value

    @contextlib.contextmanager
    def elsewhere(self) -> Iterator[Callable[[int], int]]:
        """Give a function that sets all settings to one number as another host does."""
        app = Flask("elsewhere")
        keys = [key for key in self.environment if key.startswith("WAFFLE_")]
        app.config.update({key: self.environment[key] for key in keys})
        app.config["WAFFLE_SNAPSHOT_PATH"] = str(self.directory / "elsewhere")
        app.config["WAFFLE_LISTENER"] = "none"
        app.config["WAFFLE_CONFS"] = {name: {"default": 0} for name in NAMES}
        waffle: WaffleConf[Any] = WaffleConf(app)

        def update(value: int) -> int:
            waffle.update(dict.fromkeys(NAMES, value))
            return value

        try:
            yield update
        finally:
            app.extensions["waffleconf"].store.database.close()

    def follow_elsewhere(self, *values: int) -> None:
        """Set all settings on another host, and return when each idle worker has called back."""
        with self.elsewhere() as update:
            for value in values:
                self.wait_until_called_back(update(value))

    # Who listens, and who has called back

    @property
    def channel(self) -> str:
        """The Redis channel that only this instance uses."""
        return f"test-{self.directory.name}"

    @property
    def subscriptions(self) -> int:
        """How many connections listen to Redis for this instance."""
        assert self.redis is not None
        return self.redis.subscribers(self.channel)

    def wait_for_subscriptions(self, count: int = 1) -> None:
        """Return when so many connections listen to Redis."""
        wait_until(
            lambda: self.subscriptions == count, SOON_SECONDS, f"{count} subscriptions to Redis"
        )

    def journal(self) -> list[tuple[int, int, int]]:
        """Return pid, old and new value of each callback, in order."""
        with contextlib.suppress(FileNotFoundError):
            lines = [line.split() for line in self.journal_path.read_text().splitlines()]
            return [(int(pid), int(old), int(new)) for pid, _, old, new in lines]
        return []

    def called_back(self, value: int) -> set[int]:
        """Return the pids of the processes that called back with *value*."""
        return {pid for pid, _, new in self.journal() if new == value}

    def wait_until_called_back(
        self, value: int, pids: Callable[[], list[int]] | None = None
    ) -> None:
        """Return when every worker has called back with *value*, without a request to any."""
        expected = pids or self.worker_pids

        def all_called_back() -> bool:
            return set(expected()) <= self.called_back(value)

        wait_until(all_called_back, SOON_SECONDS, f"every idle worker called back with {value}")

    def wait_for_successor(self, dead: int) -> None:
        """Return when there is another worker in the place of one that was killed."""

        def succeeded() -> bool:
            now = self.worker_pids()
            return len(now) == self.workers and dead not in now

        wait_until(succeeded, START_SECONDS, f"worker {dead} has a successor")
        self.wait_until_ready()

    def wait_for_log(self, pattern: str, count: int = 1) -> None:
        """Return when the log holds *pattern*, a regular expression, *count* times."""
        wait_until(lambda: self.count_in_log(pattern) >= count, SOON_SECONDS, f"log: {pattern}")

    def count_in_log(self, pattern: str) -> int:
        """Return how often the log holds *pattern*."""
        return len(re.findall(pattern, self.log()))


def assert_serves(answer: Mapping[str, Any], value: int) -> None:
    """Fail unless all settings of an answer are *value*, in both ways to read them."""
    assert answer["values"] == dict.fromkeys(NAMES, value)
    assert answer["again"] == answer["values"]
    assert answer["config"] == answer["values"]
