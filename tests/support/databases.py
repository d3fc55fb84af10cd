"""An empty database for each test, on SQLite, PostgreSQL and MariaDB.

The servers at the usual local ports are used if they let the tests in. Else each pytest process
starts one of each kind at its first use; under pytest-xdist that is one for each worker.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import secrets
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from typing import ClassVar, Literal, get_args

import sqlalchemy as sa

from tests.support.availability import require_program
from tests.support.processes import LocalServer

DatabaseKind = Literal["sqlite", "postgresql", "mariadb"]

#: For `@pytest.mark.parametrize("kind", DATABASE_KINDS)`.
DATABASE_KINDS: tuple[DatabaseKind, ...] = get_args(DatabaseKind)

#: Where a server of the machine listens, with the user that it lets in without a password.
USUAL_URLS = {
    "postgresql": "postgresql+psycopg://postgres@127.0.0.1:5432/postgres",
    "mariadb": "mysql+pymysql://root@127.0.0.1:3306/mysql",
}

CONNECT_SECONDS = 5

#: What makes each database keep readers waiting, without an answer or a refusal.
STANDSTILL = {
    "sqlite": "BEGIN EXCLUSIVE",
    "postgresql": "LOCK TABLE waffle_namespace, waffle_setting IN ACCESS EXCLUSIVE MODE",
    "mysql": "LOCK TABLES waffle_namespace WRITE, waffle_setting WRITE",
}


class DatabaseServer(LocalServer):
    """A database server with one user, who needs no password and may do everything."""

    #: The server, and the program that prepares its directory.
    programs: ClassVar[tuple[str, str]]

    @property
    def url(self) -> str:
        """The SQLAlchemy URL of the administrative database."""
        raise NotImplementedError

    def answers(self) -> bool:
        """Whether the server lets the tests in."""
        return lets_us_in(self.url)

    def _prepare(self, *arguments: str) -> None:
        """Make the data directory, before the first start."""
        if (self.directory / "data").exists():
            return
        finished = subprocess.run(
            [require_program(self.programs[1]), *arguments],
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.directory,
            user=self.user,
            group=self.user,
            extra_groups=None if self.user is None else [],
        )
        assert finished.returncode == 0, f"{self.programs[1]}: {finished.stdout}"


class PostgresqlServer(DatabaseServer):
    """A PostgreSQL that the test may break."""

    name: ClassVar[str] = "postgresql"
    programs: ClassVar[tuple[str, str]] = ("postgres", "initdb")
    unprivileged_users: ClassVar[tuple[str, ...]] = ("postgres", "nobody")
    # "Fast": clients are disconnected, not waited for.
    stop_signal: ClassVar[signal.Signals] = signal.SIGINT

    def prepare(self) -> None:
        """Make the data directory, before the first start."""
        self._prepare(
            *("--pgdata", str(self.directory / "data")),
            *("--username", "postgres", "--auth", "trust"),
            *("--encoding", "UTF8", "--locale", "C", "--no-sync"),
        )

    def command(self) -> list[str]:
        """Return the command that runs the server in the foreground."""
        options = ["-D", str(self.directory / "data"), "-p", str(self.port), "-h", "127.0.0.1"]
        return [require_program(self.programs[0]), *options, "-k", str(self.directory), "-F"]

    @property
    def url(self) -> str:
        """The SQLAlchemy URL of the administrative database."""
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/postgres"


class MariadbServer(DatabaseServer):
    """A MariaDB that the test may break."""

    name: ClassVar[str] = "mariadb"
    programs: ClassVar[tuple[str, str]] = ("mariadbd", "mariadb-install-db")
    unprivileged_users: ClassVar[tuple[str, ...]] = ("mysql", "nobody")

    def prepare(self) -> None:
        """Make the data directory, before the first start."""
        self._prepare(
            *("--no-defaults", f"--datadir={self.directory}/data"),
            *("--auth-root-authentication-method=normal", "--skip-test-db"),
        )

    def command(self) -> list[str]:
        """Return the command that runs the server in the foreground."""
        return [
            *(require_program(self.programs[0]), "--no-defaults"),
            *(f"--datadir={self.directory}/data", f"--pid-file={self.directory}/pid"),
            *(f"--port={self.port}", "--bind-address=127.0.0.1"),
            *(f"--socket={self.directory}/mariadb.sock", "--innodb-flush-log-at-trx-commit=0"),
        ]

    @property
    def url(self) -> str:
        """The SQLAlchemy URL of the administrative database."""
        return f"mysql+pymysql://root@127.0.0.1:{self.port}/mysql"


SERVERS: dict[str, type[DatabaseServer]] = {
    "postgresql": PostgresqlServer,
    "mariadb": MariadbServer,
}


def lets_us_in(url: str) -> bool:
    """Whether the database at *url* answers and accepts the tests."""
    with _administrator(url) as engine:
        try:
            _execute(engine, "SELECT 1")
        except sa.exc.OperationalError:
            return False
        return True


@contextlib.contextmanager
def fresh_database(kind: DatabaseKind) -> Iterator[str]:
    """Give the URL of an empty database, which no other pytest process uses, and drop it."""
    if kind == "sqlite":
        with tempfile.TemporaryDirectory(prefix="waffle-sqlite-") as directory:
            yield f"sqlite:///{directory}/waffle.db"
        return
    server_url = _server_url(kind)
    name = f"waffle_test_{secrets.token_hex(6)}"
    with _administrator(server_url) as engine:
        _execute(engine, f"CREATE DATABASE {name}")
        if kind == "postgresql":  # no test depends on what a crash of the machine would lose
            _execute(engine, f"ALTER DATABASE {name} SET synchronous_commit = off")
        try:
            yield sa.make_url(server_url).set(database=name).render_as_string(hide_password=False)
        finally:
            _drop_database(engine, name)


@functools.cache
def _server_url(kind: str) -> str:
    if lets_us_in(USUAL_URLS[kind]):
        return USUAL_URLS[kind]
    server = SERVERS[kind]()
    atexit.register(server.close)
    server.start()
    return server.url


@contextlib.contextmanager
def _administrator(url: str) -> Iterator[sa.Engine]:
    engine = sa.create_engine(
        url,
        isolation_level="AUTOCOMMIT",
        poolclass=sa.NullPool,
        connect_args={"connect_timeout": CONNECT_SECONDS},
    )
    try:
        yield engine
    finally:
        engine.dispose()


def _drop_database(engine: sa.Engine, name: str) -> None:
    """Drop a database, with the connections that a test, or a server it killed, left open."""
    if engine.dialect.name == "postgresql":
        _execute(engine, f"DROP DATABASE {name} WITH (FORCE)")
        return
    processes = sa.text("SELECT id FROM information_schema.processlist WHERE db = :name")
    with engine.connect() as connection:
        for process_id in connection.execute(processes, {"name": name}).scalars().all():
            with contextlib.suppress(sa.exc.OperationalError):  # it has just ended
                connection.execute(sa.text(f"KILL {process_id}"))
    _execute(engine, f"DROP DATABASE {name}")


def _execute(engine: sa.Engine, statement: str) -> None:
    with engine.connect() as connection:
        connection.execute(sa.text(statement))


@contextlib.contextmanager
def standstill(url: str) -> Iterator[None]:
    """Keep all others from reading the database, without an error."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.exec_driver_sql(STANDSTILL[engine.dialect.name])
        yield
        if engine.dialect.name == "mysql":
            connection.exec_driver_sql("UNLOCK TABLES")
