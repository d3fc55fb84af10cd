"""One host: a uWSGI of `tests.apps` with a host snapshot of its own, and a socket a worker."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tests.support.http import Response
from tests.support.uwsgi_server import Options, UwsgiServer
from tests.support.waiting import SOON_SECONDS, wait_until

#: The options that the documentation recommends.
WITH_MULE: Options = {"shared-import": "uwsgi_waffle.boot", "mule": "waffle"}


class WaffleHost:
    """A uWSGI instance whose workers can each be asked, and the journal of their callbacks."""

    def __init__(
        self,
        environment: Mapping[str, str],
        *,
        workers: int = 4,
        options: Options = WITH_MULE,
        app: str = "tests.apps.elsewhere:app",
    ) -> None:
        """Choose the app's environment beside what makes it a host of its own; nothing runs yet."""
        self.workers = workers
        sockets = [f"{number}:{number + 1}" for number in range(workers)]
        self.server = UwsgiServer(
            {
                "processes": workers,
                "map-socket": sockets,
                "module": app,
                "disable-logging": True,
                **options,
            },
            ports=workers,
        )
        self.journal_path = self.server.directory / "journal"
        self._journal_read = 0
        self._called_back: dict[int, dict[int, int]] = {}
        self.server.environment = {
            "TEST_JOURNAL": str(self.journal_path),
            "WAFFLE_MULTIPROC": "true",
            "WAFFLE_SNAPSHOT_PATH": str(self.server.directory / "snapshot"),
            **environment,
        }

    def read(self, worker: int, **arguments: object) -> dict[str, Any]:
        """Return what a worker, counted from 0, serves."""
        return _found(self.server.get("/", port=self.server.ports[worker], **arguments))

    def read_all(self) -> list[dict[str, Any]]:
        """Return what each worker serves."""
        return [self.read(worker) for worker in range(self.workers)]

    def revisions(self) -> set[int]:
        """Return the revisions that the workers serve."""
        return {answer["revision"] for answer in self.read_all()}

    def values(self, name: str = "S000") -> set[int]:
        """Return the values of a setting that the workers serve."""
        return {answer["values"][name] for answer in self.read_all()}

    def wait_until_at(self, revision: int, seconds: float = SOON_SECONDS) -> None:
        """Return when every worker serves a revision."""
        wait_until(lambda: self.revisions() == {revision}, seconds, f"all workers serve {revision}")

    def wait_until_serving(
        self, value: int, seconds: float = SOON_SECONDS, *, name: str = "S000"
    ) -> None:
        """Return when every worker serves a value of a setting."""
        wait_until(
            lambda: self.values(name) == {value}, seconds, f"all workers serve {name} = {value}"
        )

    def update(self, values: Mapping[str, object], *, worker: int = 0) -> dict[str, Any]:
        """Change settings through a worker."""
        return _found(self.post("/update", dict(values), worker=worker))

    def post(self, path: str, json: object = None, *, worker: int = 0) -> Response:
        """Send a POST to a worker."""
        return self.server.post(path, json, port=self.server.ports[worker])

    def called_back(self, value: int) -> dict[int, int]:
        """Return pid -> when its callback ran with a value, in monotonic nanoseconds."""
        if self.journal_path.exists():
            with self.journal_path.open("rb") as journal:
                journal.seek(self._journal_read)
                # Each entry was written at once, so a line that is there is whole.
                for line in journal:
                    self._journal_read += len(line)
                    entry = json.loads(line)
                    pids = self._called_back.setdefault(entry["value"], {})
                    pids[entry["pid"]] = entry["at_ns"]
        return dict(self._called_back.get(value, {}))

    def wait_until_called_back(self, value: int, seconds: float = SOON_SECONDS) -> dict[int, int]:
        """Return when every worker has called back with a value, without a request to any."""
        workers = set(self.server.worker_pids())

        def all_called_back() -> dict[int, int] | None:
            found = self.called_back(value)
            return found if workers <= found.keys() else None

        found = wait_until(all_called_back, seconds, f"every worker called back with {value}")
        assert found is not None
        return {pid: at_ns for pid, at_ns in found.items() if pid in workers}


@contextmanager
def hosts(
    environment: Mapping[str, str], count: int = 2, **kind: Any
) -> Iterator[list[WaffleHost]]:
    """Run hosts that share the database and the Redis that *environment* names, nothing else."""
    made = [WaffleHost(environment, **kind) for _ in range(count)]
    started: list[WaffleHost] = []
    try:
        for host in made:
            started.append(host)
            host.server.start()
        yield made
    except BaseException:
        for host in started:
            print(host.server.log())  # noqa: T201  pytest shows it with the failure
        raise
    finally:
        for host in made:
            host.server.close()


def _found(answer: Response) -> dict[str, Any]:
    assert answer.status == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found
