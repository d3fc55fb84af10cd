"""A uWSGI instance, each worker at a socket of its own; several of them are several hosts."""

from __future__ import annotations

import contextlib
import random
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from flask import Flask

from tests.support.http import Response
from tests.support.journal import Journal
from tests.support.processes import START_SECONDS, free_port
from tests.support.redis_server import RedisServer
from tests.support.uwsgi_server import Options, UwsgiServer, ini_lines
from tests.support.waiting import NEVER_SECONDS, SOON_SECONDS, wait_until
from uwsgi_waffle import WaffleConf

APP = "tests.apps.whole_numbers:app"
#: What the documentation recommends.
BOOT: Options = {"shared-import": "uwsgi_waffle.boot", "mule": "waffle"}
#: The same without a mule.
ELECTED: Options = {"shared-import": "uwsgi_waffle.boot"}
LAZY: Options = {"lazy-apps": True}

#: The settings of the application, unless `TEST_SETTINGS` gives another number.
NAMES = tuple(f"S{number:03}" for number in range(20))


class Instance(UwsgiServer):
    """An instance that polls never, with a host snapshot, a database and a journal of its own.

    Its workers are counted from 1, as uWSGI does; 0 is any of them, at the socket of all.
    """

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
        :param redis: which Redis, where the instance has a channel to itself; ``None`` for what
            *environment* names, or else for one that does not answer
        :param environment: added to that of the app, such as what it shares with other hosts
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
        self.journal = Journal(self.directory / "journal")
        self.environment.update(
            {
                "WAFFLE_MULTIPROC": "true",
                "WAFFLE_DATABASE_URI": f"sqlite:///{self.directory}/waffle.db",
                "WAFFLE_SNAPSHOT_PATH": str(self.directory / "snapshot"),
                "WAFFLE_REDIS_PORT": str(free_port()),
                "WAFFLE_POLL_SECONDS": str(NEVER_SECONDS),
                "TEST_JOURNAL": str(self.journal.path),
            }
        )
        if redis is not None:
            self.environment["WAFFLE_REDIS_URL"] = redis.url
            self.environment["WAFFLE_REDIS_CHANNEL"] = f"test-{self.directory.name}"
        self.environment.update(environment or {})
        self._next_value = 0

    # What it serves

    def read(self, worker: int = 0, path: str = "/", **options: Any) -> dict[str, Any]:
        """Return what a worker serves."""
        found = _found(self.get(path, port=self.ports[worker], **options))
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

    def revisions(self) -> set[int]:
        """Return the revisions that the workers serve."""
        return {answer["revision"] for answer in self.read_each()}

    def values(self, name: str = NAMES[0]) -> set[int]:
        """Return the values of a setting that the workers serve."""
        return {answer["values"][name] for answer in self.read_each()}

    def wait_until_at(self, revision: int) -> None:
        """Return when every worker serves a revision."""
        wait_until(
            lambda: self.revisions() == {revision}, SOON_SECONDS, f"all workers serve {revision}"
        )

    def wait_until_serving(self, value: int, name: str = NAMES[0]) -> None:
        """Return when every worker serves a value of a setting."""
        wait_until(
            lambda: self.values(name) == {value}, SOON_SECONDS, f"all serve {name} = {value}"
        )

    def states(self) -> list[dict[str, Any]]:
        """Return what each worker that has a socket of its own knows about its listener."""
        return [self.read(worker, "/state") for worker in range(len(self.ports))]

    # Changes, made here and elsewhere

    def post(self, path: str, json: object = None, *, worker: int = 0, **options: Any) -> Response:
        """Send a POST to a worker; *options* are those of `request`."""
        return super().post(path, json, port=self.ports[worker], **options)

    def update(self, values: Mapping[str, object], worker: int = 0) -> dict[str, Any]:
        """Change settings through a worker, and return its answer."""
        return _found(self.post("/update", dict(values), worker=worker))

    def set_all(self, value: int | None = None, worker: int | None = None) -> int:
        """Set all settings to one number, through some worker, and return that number."""
        if value is None:
            self._next_value += 1
            value = self._next_value
        if worker is None:
            worker = random.randint(1, len(self.ports) - 1) if len(self.ports) > 1 else 0  # noqa: S311
        self.update(dict.fromkeys(NAMES, value), worker)
        return value

    def assert_right(self, updates: int = 1) -> int:
        """Fail unless each worker serves each update at once; return the last value."""
        for _ in range(updates):
            value = self.set_all()
            for answer in self.read_each():
                assert_serves(answer, value)
        return value

    @contextlib.contextmanager
    def operator(self, **config: Any) -> Iterator[WaffleConf[Any]]:
        """Give the extension as a command on this host has it, but for keys of *config*."""
        app = Flask("operator")
        app.config.update({k: v for k, v in self.environment.items() if k.startswith("WAFFLE_")})
        app.config.update(config, WAFFLE_CONFS={name: {"default": 0} for name in NAMES})
        waffle: WaffleConf[Any] = WaffleConf(app)
        try:
            yield waffle
        finally:
            app.extensions["waffleconf"].store.database.close()

    @contextlib.contextmanager
    def elsewhere(self) -> Iterator[Callable[[int], int]]:
        """Give a function that sets all settings to one number as another host does."""
        path = str(self.directory / "elsewhere")
        with self.operator(WAFFLE_SNAPSHOT_PATH=path, WAFFLE_LISTENER="none") as waffle:

            def update(value: int) -> int:
                waffle.update(dict.fromkeys(NAMES, value))
                return value

            yield update

    def follow_elsewhere(self, *values: int) -> None:
        """Set all settings on another host, and return when each idle worker has called back."""
        with self.elsewhere() as update:
            for value in values:
                self.wait_until_called_back(update(value))

    # Who listens, who has called back, and what the log says

    @property
    def channel(self) -> str:
        """The Redis channel of this instance."""
        return self.environment["WAFFLE_REDIS_CHANNEL"]

    @property
    def subscriptions(self) -> int:
        """How many connections listen to its channel."""
        assert self.redis is not None
        return self.redis.subscribers(self.channel)

    def wait_for_subscriptions(self, count: int = 1) -> None:
        """Return when so many connections listen to its channel."""
        assert self.redis is not None
        self.redis.wait_for_subscribers(count, self.channel)

    def wait_until_called_back(
        self, value: int, pids: Callable[[], list[int]] | None = None
    ) -> dict[int, int]:
        """Return when every worker has called back with *value*, without a request to any.

        :return: pid -> when that was, in monotonic nanoseconds
        """
        expected = pids or self.worker_pids

        def all_called_back() -> dict[int, int] | None:
            workers, found = set(expected()), self.journal.called_back(value)
            return {pid: found[pid] for pid in workers} if workers <= found.keys() else None

        what = f"every idle worker called back with {value}"
        found = wait_until(all_called_back, SOON_SECONDS, what)
        assert found is not None
        return found

    def has_successor(self, dead: int) -> bool:
        """Whether there is another worker in the place of one that was killed."""
        now = self.worker_pids()
        return len(now) == self.workers and dead not in now

    def wait_for_successor(self, dead: int) -> None:
        """Return when another worker, in the place of one that was killed, serves."""
        wait_until(
            lambda: self.has_successor(dead), START_SECONDS, f"worker {dead} has a successor"
        )
        self.wait_until_ready()

    def wait_for_log(self, pattern: str, count: int = 1) -> None:
        """Return when the log holds *pattern*, a regular expression, *count* times."""
        wait_until(lambda: self.count_in_log(pattern) >= count, SOON_SECONDS, f"log: {pattern}")

    def count_in_log(self, pattern: str) -> int:
        """Return how often the log holds *pattern*."""
        return len(re.findall(pattern, self.log()))


@contextlib.contextmanager
def hosts(
    environment: Mapping[str, str], *options: Options, count: int = 2, workers: int = 4
) -> Iterator[list[Instance]]:
    """Run hosts with a mule that share what *environment* names, nothing else."""
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(Instance(BOOT, *options, workers=workers, environment=environment))
            for _ in range(count)
        ]


def assert_serves(answer: Mapping[str, Any], value: int) -> None:
    """Fail unless all settings of an answer are *value*, in both ways to read them."""
    assert answer["values"] == dict.fromkeys(NAMES, value)
    assert answer["again"] == answer["values"]
    assert answer["config"] == answer["values"]


def _found(answer: Response) -> dict[str, Any]:
    assert answer.status == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found
