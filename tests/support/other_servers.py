"""Servers other than uWSGI as real processes, with an app of `tests.apps`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

from tests.support.http import request
from tests.support.journal import Journal
from tests.support.places import ROOT
from tests.support.processes import LocalServer
from tests.support.waiting import SOON_SECONDS, wait_until

APP = "tests.apps.whole_numbers"

#: How long a request is held, so that the next one finds this worker busy and goes to another.
HOLD_SECONDS = 0.02

#: Most seconds for which workers that all load the application at once may hold each other up.
WORKER_START_SECONDS = 10.0


class WebServer(LocalServer):
    """A server of :data:`APP`, with a database, a host snapshot and a journal of its own."""

    name: ClassVar[str] = "web"
    #: Ends a wait for an answer from each worker.
    patience_seconds = SOON_SECONDS

    def __init__(self, environment: Mapping[str, str], *, workers: int = 1) -> None:
        """Choose the app's environment beside what is the server's own; nothing runs yet."""
        super().__init__()
        self.quick = True
        self.workers = workers
        self.start_seconds = max(self.start_seconds, workers * WORKER_START_SECONDS)
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("WAFFLE_")}
        self.environment = {
            **inherited,
            "PYTHONPATH": str(ROOT),
            "TEST_JOURNAL": str(self.directory / "journal"),
            "WAFFLE_MULTIPROC": "true",
            "WAFFLE_DATABASE_URI": f"sqlite:///{self.directory}/waffle.db",
            "WAFFLE_SNAPSHOT_PATH": str(self.directory / "snapshot"),
            **environment,
        }
        self.journal = Journal(Path(self.environment["TEST_JOURNAL"]))

    def program(self) -> list[str]:
        """Return the arguments of Python."""
        raise NotImplementedError

    def command(self) -> list[str]:
        """Return the command that runs the server in the foreground."""
        return [sys.executable, *self.program()]

    def answers(self) -> bool:
        """Whether the app answers."""
        return request("GET", "/", port=self.port).status == 200

    # What the app is asked

    def read(self, *, hold_seconds: float = 0.0) -> dict[str, Any]:
        """Return what the process that takes this request serves."""
        answer = request("GET", f"/?hold={hold_seconds}", port=self.port)
        assert answer.status == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def read_from_each(self) -> list[dict[str, Any]]:
        """Return answers, at least one from each worker; all were asked after this was called."""
        answers: list[dict[str, Any]] = []

        def ask(_: int) -> dict[str, Any]:
            return self.read(hold_seconds=HOLD_SECONDS)

        with ThreadPoolExecutor(2 * self.workers) as clients:

            def all_have_answered() -> bool:
                answers.extend(clients.map(ask, range(2 * self.workers)))
                return len({answer["pid"] for answer in answers}) >= self.workers

            wait_until(all_have_answered, self.patience_seconds, "each worker has answered")
        return answers

    def update(self, values: Mapping[str, object]) -> dict[str, Any]:
        """Change settings through whichever process takes this request."""
        answer = request("POST", "/update", port=self.port, json=dict(values))
        assert answer.status == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found


class Gunicorn(WebServer):
    """gunicorn with one of its worker classes."""

    name: ClassVar[str] = "gunicorn"

    def __init__(
        self,
        environment: Mapping[str, str],
        *,
        worker_class: str,
        preload: bool,
        workers: int = 3,
        options: Sequence[str] = (),
    ) -> None:
        """Choose the workers; `preload` loads the app in the master, before the forks."""
        super().__init__(environment, workers=workers)
        self.quick = worker_class != "gevent"
        self._options = ["--worker-class", worker_class, *(["--preload"] if preload else [])]
        self._options += options
        if worker_class == "gthread":
            self._options += ["--threads", "4"]

    def program(self) -> list[str]:
        """Return the arguments of Python."""
        bind = f"127.0.0.1:{self.port}"
        return [
            *("-m", "gunicorn", "--bind", bind, "--workers", str(self.workers)),
            *(*self._options, f"{APP}:app"),
        ]

    def reload(self) -> None:
        """Replace the workers (SIGHUP), and return when only new ones are left."""
        before = set(self.process.children())
        self.process.send(signal.SIGHUP)

        def replaced() -> bool:
            now = set(self.process.children())
            return len(now) == len(before) and not now & before

        wait_until(replaced, SOON_SECONDS, "gunicorn has replaced its workers")


class Waitress(WebServer):
    """waitress: one process, several threads."""

    name: ClassVar[str] = "waitress"

    def program(self) -> list[str]:
        """Return the arguments of Python."""
        return ["-m", "waitress", "--listen", f"127.0.0.1:{self.port}", f"{APP}:app"]


class FlaskRun(WebServer):
    """`flask run`, which with its reloader runs the app in a child of a process that loads it."""

    name: ClassVar[str] = "flask"

    def __init__(self, environment: Mapping[str, str], *, options: Sequence[str] = ()) -> None:
        """Choose the options of `flask run`."""
        super().__init__(environment)
        self._options = list(options)

    def program(self) -> list[str]:
        """Return the arguments of Python."""
        return ["-m", "flask", "--app", APP, "run", "--port", str(self.port), *self._options]


class Granian(WebServer):
    """Granian, whose workers are made by one of the start methods of multiprocessing."""

    name: ClassVar[str] = "granian"

    def __init__(self, environment: Mapping[str, str], *, method: str, workers: int = 3) -> None:
        """Choose the workers; `method` is `fork` or `spawn`."""
        super().__init__(environment, workers=workers)
        self._method = method

    def program(self) -> list[str]:
        """Return the arguments of Python."""
        arguments = self._method, str(self.port), str(self.workers)
        return ["-m", "tests.apps.with_granian", *arguments]


class Uvicorn(WebServer):
    """uvicorn, with a2wsgi as the bridge; it spawns its workers."""

    name: ClassVar[str] = "uvicorn"

    def program(self) -> list[str]:
        """Return the arguments of Python."""
        return [
            *("-m", "uvicorn", "--port", str(self.port), "--workers", str(self.workers)),
            *("--timeout-worker-healthcheck", "30", "tests.apps.asgi:app"),
        ]


class Hypercorn(WebServer):
    """hypercorn, with a2wsgi as the bridge or its own one for WSGI; it spawns its workers."""

    name: ClassVar[str] = "hypercorn"

    def __init__(self, environment: Mapping[str, str], *, app: str, workers: int = 3) -> None:
        """Choose the application, as hypercorn is told of it."""
        super().__init__(environment, workers=workers)
        self._app = app

    def program(self) -> list[str]:
        """Return the arguments of Python."""
        bind = f"127.0.0.1:{self.port}"
        return ["-m", "hypercorn", "--bind", bind, "--workers", str(self.workers), self._app]
