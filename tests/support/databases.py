"""A fresh database for whoever asks, on SQLite, PostgreSQL and MariaDB."""

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

from tests.support.availability import find_program, require
from tests.support.processes import LocalServer

DatabaseKind = Literal["sqlite", "postgresql", "mariadb"]

#: For `@pytest.mark.parametrize("kind", DATABASE_KINDS)`.
DATABASE_KINDS: tuple[DatabaseKind, ...] = get_args(DatabaseKind)

#: Where a server listens that is there anyway, with the user it lets in without a password.
USUAL_URLS = {
    "postgresql": "postgresql+psycopg://postgres@127.0.0.1:5432/postgres",
    "mariadb": "mysql+pymysql://root@127.0.0.1:3306/mysql",
}

CONNECT_SECONDS = 5


class DatabaseServer(LocalServer):
    """A database server with one user, who needs no password and may do everything."""

    @property
    def url(self) -> str:
        """The SQLAlchemy URL of the server's own administrative database."""
        raise NotImplementedError

    def answers(self) -> bool:
        """Whether the server lets us in."""
        return lets_us_in(self.url)

    @classmethod
    def find_programs(cls) -> tuple[str | None, str | None]:
        """Return the paths of the server and of the program that prepares its directory."""
        raise NotImplementedError

    def _programs(self) -> tuple[str, str]:
        server, preparer = self.find_programs()
        require(server and preparer, f"the programs of {self.name}")
        assert server is not None
        assert preparer is not None
        return server, preparer

    def _run(self, *command: str) -> None:
        finished = subprocess.run(
            command,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.directory,
            user=self.user,
            group=self.user,
            extra_groups=None if self.user is None else [],
        )
        assert finished.returncode == 0, f"{command[0]}: {finished.stdout}"


class PostgresqlServer(DatabaseServer):
    """A PostgreSQL of the test's own."""

    name: ClassVar[str] = "postgresql"
    unprivileged_users: ClassVar[tuple[str, ...]] = ("postgres", "nobody")
    # "Fast": clients are cut off, not waited for.
    stop_signal: ClassVar[signal.Signals] = signal.SIGINT

    @classmethod
    def find_programs(cls) -> tuple[str | None, str | None]:
        """Return the paths of the server and of the program that prepares its directory."""
        return find_program("postgres"), find_program("initdb")

    def prepare(self) -> None:
        """Make the data directory, before the first start."""
        if not (self.directory / "data").exists():
            self._run(
                *(self._programs()[1], "--pgdata", str(self.directory / "data")),
                *("--username", "postgres", "--auth", "trust"),
                *("--encoding", "UTF8", "--locale", "C", "--no-sync"),
            )

    def command(self) -> list[str]:
        """Return the command that runs the server in the foreground."""
        options = ["-D", str(self.directory / "data"), "-p", str(self.port), "-h", "127.0.0.1"]
        return [self._programs()[0], *options, "-k", str(self.directory), "-F"]

    @property
    def url(self) -> str:
        """The SQLAlchemy URL of the server's own administrative database."""
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/postgres"


class MariadbServer(DatabaseServer):
    """A MariaDB of the test's own."""

    name: ClassVar[str] = "mariadb"
    unprivileged_users: ClassVar[tuple[str, ...]] = ("mysql", "nobody")

    @classmethod
    def find_programs(cls) -> tuple[str | None, str | None]:
        """Return the paths of the server and of the program that prepares its directory."""
        return find_program("mariadbd"), find_program("mariadb-install-db")

    def prepare(self) -> None:
        """Make the data directory, before the first start."""
        if not (self.directory / "data").exists():
            self._run(
                *(self._programs()[1], "--no-defaults", f"--datadir={self.directory}/data"),
                *("--auth-root-authentication-method=normal", "--skip-test-db"),
            )

    def command(self) -> list[str]:
        """Return the command that runs the server in the foreground."""
        return [
            *(self._programs()[0], "--no-defaults", f"--datadir={self.directory}/data"),
            *(f"--port={self.port}", "--bind-address=127.0.0.1"),
            *(f"--socket={self.directory}/mariadb.sock", f"--pid-file={self.directory}/pid"),
            "--innodb-flush-log-at-trx-commit=0",
        ]

    @property
    def url(self) -> str:
        """The SQLAlchemy URL of the server's own administrative database."""
        return f"mysql+pymysql://root@127.0.0.1:{self.port}/mysql"


SERVERS: dict[str, type[DatabaseServer]] = {
    "postgresql": PostgresqlServer,
    "mariadb": MariadbServer,
}


def lets_us_in(url: str) -> bool:
    """Whether the database at *url* answers and accepts us."""
    with _administrator(url) as engine:
        try:
            _execute(engine, "SELECT 1")
        except sa.exc.OperationalError:
            return False
        return True


@contextlib.contextmanager
def fresh_database(kind: DatabaseKind) -> Iterator[str]:
    """Give the URL of an empty database, and drop it at the end.

    PostgreSQL and MariaDB are the servers at the usual local ports if they let us in, else ones
    that are started now and end with the tests.
    """
    if kind == "sqlite":
        with tempfile.TemporaryDirectory(prefix="waffle-sqlite-") as directory:
            yield f"sqlite:///{directory}/waffle.db"
        return
    server_url = _server_url(kind)
    name = f"waffle_test_{secrets.token_hex(6)}"
    with _administrator(server_url) as engine:
        _execute(engine, f"CREATE DATABASE {name}")
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
    """Drop a database although a test, or a server it killed, left connections to it open."""
    if engine.dialect.name == "postgresql":
        _execute(engine, f"DROP DATABASE {name} WITH (FORCE)")
        return
    processes = sa.text("SELECT id FROM information_schema.processlist WHERE db = :name")
    with engine.connect() as connection:
        for process_id in connection.execute(processes, {"name": name}).scalars().all():
            with contextlib.suppress(sa.exc.OperationalError):  # it has just gone by itself
                connection.execute(sa.text(f"KILL {process_id}"))
    _execute(engine, f"DROP DATABASE {name}")


def _execute(engine: sa.Engine, statement: str) -> None:
    with engine.connect() as connection:
        connection.execute(sa.text(statement))
