"""What the tests share: servers, databases of each kind, and applications in this process."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask

from tests.support import DATABASE_KINDS, RedisServer, fresh_database
from tests.support.waiting import SOON_SECONDS
from uwsgi_waffle import WaffleConf, WaffleSettings
from uwsgi_waffle.listen import loop
from uwsgi_waffle.process.state import State

#: Of :func:`own_redis`; no message may show it.
REDIS_PASSWORD = "Geheim-7"  # noqa: S105  # of a server that the test starts


def pytest_configure() -> None:
    """Let the servers of the tests be ended by SIGINT, also where a shell started us with ``&``.

    Such a shell has its background processes, and all that they start, ignore it.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Else each process that a test starts compiles the package anew.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


#: Where tests take longest, the longest first.
SLOW_FIRST = (
    *("ops/test_model_of_the_proof.py", "uwsgi", "deployments", "project", "machine", "hosts"),
    *("sql/test_limits.py", "listen", "ops", "sql", "admin", "process"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the tests that take long, so that no process is left with them at the end.

    By itself pytest-xdist starts with the files that have the most tests, which are the quick ones.
    """
    tests = Path(__file__).parent

    def rank(item: pytest.Item) -> int:
        place = item.path.relative_to(tests)
        return next(
            (n for n, slow in enumerate(SLOW_FIRST) if place.is_relative_to(slow)), len(SLOW_FIRST)
        )

    items.sort(key=rank)


def state_of(app: Flask) -> State:
    """Return the state of an application."""
    state: State = app.extensions["waffleconf"]
    return state


class Apps:
    """Makes applications, and closes what they hold at the end of the test.

    Those of one *host* share a host snapshot. Nothing listens unless a test starts it.
    """

    def __init__(self, directory: Path, database_uri: str) -> None:
        self.directory = directory
        self.database_uri = database_uri
        self._states: list[State] = []

    def flask(self, *, host: str = "here", **config: Any) -> Flask:
        """Return an application that is configured, but not set up."""
        app = Flask("tests", instance_path=str(self.directory / "instance"))
        app.config["WAFFLE_DATABASE_URI"] = self.database_uri
        app.config["WAFFLE_SNAPSHOT_PATH"] = str(self.directory / host / "snapshot")
        app.config.update(config)
        return app

    def __call__(
        self, settings: type[WaffleSettings] | None = None, /, *, host: str = "here", **config: Any
    ) -> tuple[Flask, WaffleConf[Any]]:
        """Return an application that is set up, with its extension."""
        app = self.flask(host=host, **config)
        waffle: WaffleConf[Any] = WaffleConf(settings=settings) if settings else WaffleConf()
        self.init(waffle, app)
        return app, waffle

    def init(self, waffle: WaffleConf[Any], app: Flask) -> State:
        """Set an application up, and return its state."""
        waffle.init_app(app)
        state = state_of(app)
        self._states.append(state)
        return state

    def close(self) -> None:
        """End the listeners, and close the connections."""
        for state in self._states:
            if state.environment is not None:
                state.environment.stop(SOON_SECONDS)
                assert not state.environment.is_alive(), "a listener ends when it is stopped"
            state.store.database.close()


@pytest.fixture(autouse=True)
def _no_waffle_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ignore what a developer has exported for the demo."""
    for name in [name for name in os.environ if name.startswith("WAFFLE_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def shared_redis() -> Iterator[RedisServer]:
    """Give the Redis that the tests of this process share; no test breaks it."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """Give a Redis that the test does not break; a new one, as tests count what it has seen."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """Give a running Redis with a password, for a test that breaks it."""
    with RedisServer(password=REDIS_PASSWORD) as server:
        yield server


@pytest.fixture
def quick_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have idle listeners turn often, for a test that waits for several turns."""
    monkeypatch.setattr(loop, "TURN_SECONDS", 0.05)


@pytest.fixture(params=DATABASE_KINDS)
def database_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """Give the URL of an empty database, of each kind."""
    with fresh_database(request.param) as url:
        yield url


@pytest.fixture
def apps(tmp_path: Path) -> Iterator[Apps]:
    """Make applications on a SQLite of their own."""
    with contextlib.closing(Apps(tmp_path, f"sqlite:///{tmp_path}/waffle.db")) as made:
        yield made


@pytest.fixture
def database_apps(tmp_path: Path, database_url: str) -> Iterator[Apps]:
    """Make applications on a database of each kind."""
    with contextlib.closing(Apps(tmp_path, database_url)) as made:
        yield made


def execute(url: str, *statements: str) -> list[Any]:
    """Run statements without an application, and return the rows of the last, if it has any."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        for statement in statements:
            result = connection.execute(sa.text(statement))
        return [tuple(row) for row in result] if result.returns_rows else []
