"""A PostgreSQL that counts what it is sent."""

from __future__ import annotations

import re
from pathlib import Path

import sqlalchemy as sa

from tests.support.databases import PostgresqlServer
from tests.support.waiting import SOON_SECONDS, wait_until

__all__ = ["CountingServer"]


class CountingServer:
    """A PostgreSQL that logs each statement, with the host that made it."""

    def __init__(self, server: PostgresqlServer) -> None:
        self._engine = sa.create_engine(
            server.url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool
        )
        self._log: Path = server.log_path
        self._marks = 0
        self.url = sa.make_url(server.url)
        for statement in (
            "ALTER SYSTEM SET log_statement = 'all'",
            "ALTER SYSTEM SET log_line_prefix = 'by %a; '",
            "ALTER SYSTEM SET max_connections = 300",
            "SELECT pg_reload_conf()",
        ):
            self._execute(statement)

    def create_database(self, name: str) -> None:
        """Create an empty database."""
        self._execute(f"CREATE DATABASE {name}")

    def url_for(self, host: str, database: str) -> str:
        """Return a URL by which the server logs a host under its name."""
        url = self.url.set(database=database, query={"application_name": host})
        return url.render_as_string(hide_password=False)

    def mark(self) -> int:
        """Return the end of the log, once all statements before are in it."""
        self._marks += 1
        mark = f"mark {self._marks} is here"
        self._execute(f"SELECT '{mark}'")
        wait_until(lambda: mark in self._log.read_text(), SOON_SECONDS, "the log is written")
        return len(self._log.read_text())

    def statements(self, host: str, start: int, end: int) -> list[str]:
        """Return the statements that a host made between two marks, without their parameters."""
        part = self._log.read_text()[start:end]
        # The text of a statement may take several lines.
        lines = re.sub(r"\n\t?(?!by )", " ", part).splitlines()
        pattern = re.compile(rf"by {host}; LOG:  (?:statement|execute [^:]*): (.*)")
        return [found[1] for line in lines if (found := pattern.match(line))]

    def _execute(self, statement: str) -> None:
        with self._engine.connect() as connection:
            connection.execute(sa.text(statement))
