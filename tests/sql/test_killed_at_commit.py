"""Database sessions that are ended at the moment of their COMMIT: neither lost nor made twice."""

from __future__ import annotations

import contextlib
import random
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from tests.conftest import Apps, state_of
from tests.sql.conftest import CONFS
from tests.sql.test_store_faults import CUT, CuttingProxy
from tests.support import fresh_database
from tests.support.soak import times
from uwsgi_waffle import StoreUnavailable

#: Longest wait between a COMMIT and the end of its session, in seconds; a COMMIT takes that long.
MOMENT_SECONDS = 0.001
ANSWER_SECONDS = 10.0


class KillingProxy(CuttingProxy):
    """Has the server end the session of a COMMIT, and passes on what the server still says."""

    def __init__(self, apps: Apps, admin: sa.Connection) -> None:
        super().__init__(apps)
        self._admin = admin
        self._find, self._kill = map(sa.text, CUT[admin.dialect.name].split(";"))
        self.moment: Callable[[], float] = lambda: 0.0

    def _delays(self, client: socket.socket, server: socket.socket, commit: bytes) -> bool:
        sessions = self._admin.execute(self._find).scalars().all()
        seconds = self.moment()
        if seconds >= 0:
            server.sendall(commit)
            time.sleep(seconds)  # which moment of the COMMIT it is, is the point
        for session in sessions:
            self._admin.execute(self._kill, {"id": session})
        server.settimeout(ANSWER_SECONDS)
        with contextlib.suppress(OSError):
            if seconds < 0:
                server.sendall(commit)
            while received := server.recv(65536):
                client.sendall(received)
        return True


@pytest.fixture
def proxy(server_apps: Apps) -> Iterator[KillingProxy]:
    """Put a proxy before the database of the applications."""
    engine = sa.create_engine(
        server_apps.database_uri, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT"
    )
    with engine.connect() as admin, contextlib.closing(KillingProxy(server_apps, admin)) as made:
        yield made


MOMENTS: dict[str, Callable[[], float]] = {
    "before": lambda: -1.0,
    "at once": lambda: 0.0,
    "a moment later": lambda: random.uniform(0, MOMENT_SECONDS),  # noqa: S311
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_session_ended_at_its_commit_is_neither_lost_nor_made_twice(
    moment: str, server_apps: Apps, proxy: KillingProxy
) -> None:
    """What `update` says of each change is what the history says, and the next one works."""
    _, waffle = server_apps(WAFFLE_CONFS=CONFS)
    waffle.update({"SIZE": 2})
    proxy.moment = MOMENTS[moment]
    made = [2]
    count = times(4, 300)
    for value in range(3, 3 + count):
        proxy.cuts_commit = True
        failure = None
        try:
            done = waffle.update({"SIZE": value})
        except StoreUnavailable as error:
            failure = error
        else:
            made.append(value)
            assert done.revision == len(made)
        # Another connection can be had at once, to find out by.
        assert failure is None or failure.is_outcome_known
        assert not proxy.cuts_commit, "no COMMIT was seen"
        assert [change.new for change in waffle.history(limit=2 * count)] == made[::-1]
        waffle.refresh()
        assert (waffle.settings.SIZE, waffle.revision) == (made[-1], len(made))
    if moment == "before":
        assert made == [2]
    assert waffle.update({"SIZE": 1000}).revision == len(made) + 1


#: What psycopg says of a connection that it does not know to be broken yet.
SOCKET_CLOSED = psycopg.OperationalError("connection socket closed")


@pytest.fixture
def postgresql_apps(tmp_path: Path) -> Iterator[Apps]:
    """Make applications on PostgreSQL."""
    with (
        fresh_database("postgresql") as url,
        contextlib.closing(Apps(tmp_path, url)) as made,
    ):
        yield made


def test_a_connection_that_psycopg_takes_for_open_is_left(
    postgresql_apps: Apps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first error names no state of the server, and its rollback fails for another reason."""
    app, waffle = postgresql_apps(WAFFLE_CONFS=CONFS)
    waffle.update({"SIZE": 2})
    broken: list[str] = []

    dialect = state_of(app).store.database.engine.dialect
    execute = dialect.do_execute

    def lose_socket(cursor: Any, statement: str, *rest: Any) -> None:
        if not broken:
            broken.append(statement)
            cursor.connection.pgconn.send_query(b"SELECT pg_sleep(60)")
            raise SOCKET_CLOSED
        execute(cursor, statement, *rest)

    monkeypatch.setattr(dialect, "do_execute", lose_socket)
    assert [change.new for change in waffle.history()] == [2]
    assert "waffle_change" in broken.pop()
    assert waffle.update({"SIZE": 3}).revision == 2
    assert broken


@pytest.mark.parametrize("is_made", [True, False])
def test_a_commit_on_such_a_connection_is_looked_up(
    postgresql_apps: Apps, monkeypatch: pytest.MonkeyPatch, *, is_made: bool
) -> None:
    app, waffle = postgresql_apps(WAFFLE_CONFS=CONFS)
    waffle.update({"SIZE": 2})
    losses = iter([True])

    def commit(line: Any) -> None:
        is_lost = next(losses, False)
        if is_made or not is_lost:
            line.commit()
        if is_lost:
            raise SOCKET_CLOSED

    monkeypatch.setattr(state_of(app).store.database.engine.dialect, "do_commit", commit)
    if is_made:
        assert waffle.update({"SIZE": 3}).revision == 2
    else:
        with pytest.raises(StoreUnavailable) as caught:
            waffle.update({"SIZE": 3})
        assert caught.value.is_outcome_known
    assert [change.new for change in waffle.history()] == ([3, 2] if is_made else [2])
