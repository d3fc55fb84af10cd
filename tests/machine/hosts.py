"""One host: a real server, a writer, and links of its own to Redis and SQL."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from tests.machine.ledger import LISTED_AT, began_at
from tests.machine.proxy import Proxy
from tests.machine.writer import Writer, WriterGone
from tests.support import UwsgiServer, other_servers, request, wait_until
from tests.support.processes import START_SECONDS, STOP_SECONDS
from uwsgi_waffle.host import areas
from uwsgi_waffle.host.lives import LifeLocks
from uwsgi_waffle.host.processes import SlotTable

if TYPE_CHECKING:
    from tests.machine.world import World

__all__ = [
    "APP",
    "CHANNEL",
    "NAMES",
    "POLL_SECONDS",
    "REQUEST_SECONDS",
    "Host",
    "holds",
]

APP = "tests.machine.app:app"
CHANNEL = "machine"
POLL_SECONDS = 1.0
NAMES = ("S000", "S001", "S002")
#: How long a request may take before its client gives up.
REQUEST_SECONDS = 10.0
#: How many lines of a server's log are shown with what was wrong.
LOG_LINES = 20
#: Most requests at once that are to reach each worker of a host.
MOST_WORKERS = 8


def holds() -> Iterator[float]:
    """Give how long requests are to be held that are to reach each worker: longer and longer.

    Of idle workers the kernel wakes the same one first, so the others must be busy meanwhile. On a
    busy machine requests that are sent together arrive far from each other.
    """
    seconds = 0.02
    while True:
        yield seconds
        seconds = min(2 * seconds, 0.5)


class Host:
    """One host: a server, a writer, and links to Redis and SQL that it has to itself."""

    #: What a test may do to its server: see :mod:`tests.machine.faults`.
    abilities: frozenset[str] = frozenset()
    #: How many connections of it may listen to Redis.
    most_subscriptions = 1
    server: UwsgiServer | other_servers.Gunicorn

    def __init__(self, name: str, world: World, address: str = "127.0.0.1") -> None:
        """Make the links, which the host reaches at *address*; nothing runs yet."""
        self.name = name
        self.ledger = world.ledger
        self.request_seconds = world.request_seconds
        self.redis_link = Proxy(world.redis.port, address)
        self.sql_link = Proxy(world.database.port, address)
        url = sa.make_url(world.database_url).set(host=address, port=self.sql_link.port)
        self.environment = {
            "WAFFLE_MULTIPROC": "true",
            "WAFFLE_DATABASE_URI": url.render_as_string(hide_password=False),
            "WAFFLE_REDIS_URL": f"redis://{address}:{self.redis_link.port}/0",
            "WAFFLE_REDIS_CHANNEL": CHANNEL,
            "WAFFLE_POLL_SECONDS": str(POLL_SECONDS),
            "TEST_SETTINGS": str(len(NAMES)),
        }
        self.port = 0
        self.starts = 0

    def _make_writer(self, snapshot_path: Path) -> None:
        self.snapshot_path = snapshot_path
        self.writer = Writer({**self.environment, "WAFFLE_SNAPSHOT_PATH": str(snapshot_path)})

    # -- what its server can do ---------------------------------------------------------------

    def processes(self) -> dict[str, list[int]]:
        """Return kind -> the pids of the live processes of the server."""
        raise NotImplementedError

    def log(self) -> str:
        """Return what the server has written."""
        return self.server.log()

    def reload(self) -> None:
        """Ask the server for new workers; returns at once."""
        self.server.process.send(signal.SIGHUP)

    def close(self) -> None:
        """End everything, and remove it."""
        self.writer.close()
        self.redis_link.close()
        self.sql_link.close()
        self.server.close()

    # -- start and end ------------------------------------------------------------------------

    def start(self) -> None:
        """Start the server, and return when it serves."""
        self.starts += 1
        self.server.start()
        self.ledger.host_is_up(self.name)

    def stop(self) -> None:
        """End the server in an orderly way."""
        self.ledger.host_is_down(self.name)
        self.server.stop()

    def kill(self) -> None:
        """Kill all processes of the server."""
        self.ledger.host_is_down(self.name)
        self.server.kill()

    def serving(self) -> list[int]:
        """Return the pids of the processes that must be waited for."""
        return [
            pid for kind, pids in self.processes().items() for pid in pids if "master" not in kind
        ]

    def workers(self) -> list[int]:
        """Return the pids of the processes that answer requests."""
        return [pid for kind, pids in self.processes().items() for pid in pids if "worker" in kind]

    def wait_until_whole(self, before: Mapping[str, Sequence[int]]) -> None:
        """Return when there are as many processes of each kind as before, and they serve."""

        def is_whole() -> bool:
            now = self.processes()
            return all(len(now[kind]) >= len(pids) for kind, pids in before.items())

        wait_until(is_whole, START_SECONDS + STOP_SECONDS, f"{self.name} is whole again")
        self.wait_until_ready()

    def wait_until_replaced(self, before: Mapping[str, Sequence[int]]) -> None:
        """Return when other workers serve than before, and as many."""
        old = {pid for kind, pids in before.items() if "worker" in kind for pid in pids}
        wait_until(
            lambda: not old.intersection(self.workers()),
            2 * (START_SECONDS + STOP_SECONDS),
            f"{self.name} has new workers",
        )
        self.wait_until_whole(before)

    def wait_until_ready(self) -> None:
        """Return when each worker answers: one that has just begun may still load."""
        answered: set[int | None] = {None}
        seconds = holds()

        def all_answer() -> bool:
            held = [next(seconds)] * 2 * len(self.workers())
            answered.update(pool.map(self.find, held))
            return len(answered) > 1 and answered.issuperset(self.workers())

        with ThreadPoolExecutor(MOST_WORKERS) as pool:
            wait_until(all_answer, 2 * START_SECONDS, f"each worker of {self.name} serves")

    def find(self, hold_seconds: float) -> int | None:
        """Return the pid of a worker that answers, of any; ``None`` where none does."""
        try:
            answer = request("GET", f"/?hold={hold_seconds}", port=self.port)
        except OSError:
            return None
        return int(answer.json()["pid"]) if answer.status == 200 else None

    # -- what it is asked ---------------------------------------------------------------------

    def read(self, hold_seconds: float = 0.0) -> dict[str, Any] | None:
        """Read through any worker, and judge the answer; ``None`` where there was none."""
        floor = self.ledger.floor(self.name)
        try:
            answer = request(
                "GET", f"/?hold={hold_seconds}", port=self.port, seconds=self.request_seconds
            )
        except OSError:
            self.ledger.counts["reads unanswered"] += 1
            return None
        if answer.status != 200:
            self.ledger.counts["reads unanswered"] += 1
            return None
        found: dict[str, Any] = {**answer.json(), "listed_at": float(answer.headers[LISTED_AT])}
        self.ledger.saw(self.name, floor, found, self.evidence)
        return found

    def evidence(self) -> str:
        """Return what the host snapshot lists at the moment, and the end of the log."""
        table = SlotTable()
        words = memoryview(self.snapshot_path.read_bytes()).cast("Q")
        table.move(words, LifeLocks(self.snapshot_path))
        area = areas.in_use(words)
        lines = [f"pid {pid} began at {began_at(pid)}" for pid in self.workers()]
        lines += [f"snapshot: {None if area is None else area.position}", *map(str, table.living())]
        return "\n    ".join(["", *lines, *self.log().splitlines()[-LOG_LINES:]])

    def update(self) -> int | None:
        """Set all settings to a new number through a worker; return the revision if it returned."""
        return self._note_update(self._update_by_worker)

    def update_by_writer(self) -> int | None:
        """Set all settings to a new number through the writer."""
        return self._note_update(self._update_by_writer)

    def update_by_killed_writer(self, steps: int) -> int | None:
        """Do so by the writer, killed after so many lines of `update`, if it takes as many."""
        return self._note_update(lambda value: self._update_by_writer(value, kill_after=steps))

    def wait(self, revision: int, seconds: float = 2.0) -> bool | None:
        """Wait for a revision in the writer, judge a yes; ``None`` where there was no answer."""
        began_at = time.monotonic()
        try:
            answer = self.writer.ask(
                within_seconds=seconds + REQUEST_SECONDS,
                do="wait",
                revision=revision,
                seconds=seconds,
            )
        except WriterGone:
            return None
        if "error" in answer:
            self.ledger.counts["proofs refused"] += 1
            return False
        self.ledger.proven(self.name, answer["revision"], began_at, answer["fleet"])
        return True

    def _update_by_worker(self, value: int) -> dict[str, Any]:
        answer = request(
            "POST",
            "/update",
            port=self.port,
            json=dict.fromkeys(NAMES, value),
            seconds=self.request_seconds,
        )
        if answer.status == 500:
            self.ledger.wrong("crashed", f"{self.name}: an update raised what is no WaffleError")
        if answer.status not in {200, 503}:
            message = f"{answer.status}: {answer.text}"
            raise OSError(message)
        found: dict[str, Any] = answer.json()
        return found

    def _update_by_writer(self, value: int, **options: int) -> dict[str, Any]:
        return self.writer.ask(
            within_seconds=self.request_seconds,
            do="update",
            values=dict.fromkeys(NAMES, value),
            **options,
        )

    def _note_update(self, update: Callable[[int], dict[str, Any]]) -> int | None:
        value = self.ledger.attempt()
        try:
            answer = update(value)
        except OSError:
            self.ledger.unknown()
            return None
        if "error" in answer:
            if "is not known" in answer["error"]:
                self.ledger.unknown()
            else:
                self.ledger.refused(value)
            return None
        self.ledger.made(self.name, value, answer["revision"])
        return int(answer["revision"])
