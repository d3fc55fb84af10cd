"""Databases that fail: connections cut at every moment, locks, and a server that is away."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sqlite3
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from tests.conftest import Apps, state_of
from tests.sql.conftest import CONFS
from tests.support.processes import free_port
from uwsgi_waffle import StoreUnavailable

#: How to find the other connections to a database, and how to end one.
CUT = {
    "postgresql": """
        SELECT pid FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid();
        SELECT pg_terminate_backend(:id)""",
    "mysql": """
        SELECT id FROM information_schema.processlist
        WHERE db = DATABASE() AND id <> CONNECTION_ID();
        KILL :id""",
}


def cut_connections(url: str) -> int:
    """Have the server end every connection to a database, and return how many there were."""
    engine = sa.create_engine(url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
    find, cut = map(sa.text, CUT[engine.dialect.name].split(";"))
    with engine.connect() as connection:
        victims = connection.execute(find).scalars().all()
        for victim in victims:
            connection.execute(cut, {"id": victim})
    return len(victims)


def test_a_connection_cut_between_uses_is_not_noticed(server_apps: Apps) -> None:
    _, waffle = server_apps(WAFFLE_CONFS=CONFS)
    waffle.update({"SIZE": 2})
    assert cut_connections(server_apps.database_uri) == 1
    assert waffle.update({"SIZE": 3}).revision == 2
    assert cut_connections(server_apps.database_uri) == 1
    assert len(waffle.history()) == 2
    assert cut_connections(server_apps.database_uri) == 1
    assert waffle.refresh() is False


@pytest.mark.parametrize("other_writes", [False, True], ids=["alone", "another writes"])
def test_a_connection_cut_before_the_commit_is_an_error_and_changes_nothing(
    server_apps: Apps, *, other_writes: bool
) -> None:
    """That another writer commits the same revision in between is not mistaken for success."""
    app, waffle = server_apps(WAFFLE_CONFS=CONFS)
    _, other = server_apps(WAFFLE_CONFS=CONFS, host="there")
    waffle.update({"SIZE": 2})
    engine = state_of(app).store.database.engine
    cuts = iter([True])

    def cut(_: object) -> None:
        if next(cuts, False):
            cut_connections(server_apps.database_uri)
            if other_writes:
                assert other.update({"SIZE": 9}).revision == 2

    sa.event.listen(engine, "commit", cut)
    with pytest.raises(StoreUnavailable, match="cannot be used"):
        waffle.update({"SIZE": 3})
    present = (2, 9) if other_writes else (1, 2)
    assert waffle.refresh() is other_writes
    assert (waffle.revision, waffle.settings.SIZE) == present
    assert waffle.update({"SIZE": 4}).revision == present[0] + 1
    assert [change.new for change in waffle.history()] == ([4, 9, 2] if other_writes else [4, 2])


def commits(sent: bytes) -> bool:
    """Return whether a client asks for a commit, and not only for an isolation level."""
    return b"COMMIT" in sent.replace(b"READ COMMITTED", b"")


class CuttingProxy:
    """Stands before a database of applications; on demand it drops the answer to a COMMIT."""

    def __init__(self, apps: Apps) -> None:
        url = sa.make_url(apps.database_uri)
        self._target = url.host, url.port
        self.port = free_port()
        apps.database_uri = url.set(port=self.port).render_as_string(hide_password=False)
        self.cuts_commit = False
        #: Whether it refuses connections after that.
        self.then_refuses = False
        self._listening = socket.create_server(("127.0.0.1", self.port))
        self._closed = False
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        """End all connections."""
        self._closed = True
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for thread in self._threads:
            thread.join(10)

    def _delays(self, client: socket.socket, server: socket.socket, commit: bytes) -> bool:
        """Deal with a COMMIT otherwise, if at all."""
        del client, server, commit
        return False

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(client,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._target) as server:
            drops_answer = False
            while not self._closed:
                for source in select.select([client, server], [], [], 0.1)[0]:
                    received = source.recv(65536)
                    if not received or (source is server and drops_answer):
                        return
                    if source is client and self.cuts_commit and commits(received):
                        drops_answer, self.cuts_commit = True, False
                        if self._delays(client, server, received):
                            return
                        if self.then_refuses:
                            self._closed = True
                            self._listening.close()
                            server.sendall(received)
                            server.recv(65536)
                            return
                    (server if source is client else client).sendall(received)


@pytest.fixture
def proxy(server_apps: Apps) -> Iterator[CuttingProxy]:
    """Put a proxy before the database of the applications."""
    with contextlib.closing(CuttingProxy(server_apps)) as made:
        yield made


def test_a_connection_cut_after_the_commit_is_a_success_made_once(
    server_apps: Apps, proxy: CuttingProxy
) -> None:
    """The answer is lost, so the history decides whether the change was made."""
    _, waffle = server_apps(WAFFLE_CONFS=CONFS)
    waffle.update({"SIZE": 2})
    proxy.cuts_commit = True
    assert waffle.update({"SIZE": 3}).revision == 2
    assert not proxy.cuts_commit, "nothing was cut"
    assert [change.new for change in waffle.history()] == [3, 2]
    assert waffle.settings.SIZE == 3


def test_a_commit_whose_outcome_cannot_be_known_is_an_error_that_says_so(
    server_apps: Apps, proxy: CuttingProxy
) -> None:
    _, waffle = server_apps(WAFFLE_CONFS=CONFS)
    waffle.update({"SIZE": 2})
    proxy.cuts_commit = proxy.then_refuses = True
    with pytest.raises(StoreUnavailable, match=r"is not known\. Look at the history"):
        waffle.update({"SIZE": 3})


# -- SQLite's one lock -----------------------------------------------------------------------------


@pytest.fixture
def impatient(apps: Apps) -> Apps:
    """Make applications that wait for SQLite's lock 0.05 seconds at a time."""
    apps.database_uri += "?timeout=0.05"
    return apps


@contextlib.contextmanager
def locked(apps: Apps, how: str) -> Iterator[sqlite3.Connection]:
    path = apps.database_uri.removeprefix("sqlite:///").partition("?")[0]
    with contextlib.closing(
        sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    ) as holder:
        holder.execute(f"BEGIN {how}")
        yield holder


@pytest.mark.parametrize("how", ["IMMEDIATE", "EXCLUSIVE"])
def test_a_writer_outlasts_a_lock_that_lasts_longer_than_one_try(impatient: Apps, how: str) -> None:
    app, waffle = impatient(WAFFLE_CONFS=CONFS)
    waffle.update({"SIZE": 2})
    tries: list[str] = []
    engine = state_of(app).store.database.engine
    with locked(impatient, how) as holder:

        def note(_c: object, _cursor: object, statement: str, *_: object) -> None:
            tries.append(statement)
            if len(tries) == 2:
                holder.execute("ROLLBACK")

        sa.event.listen(engine, "before_cursor_execute", note)
        assert waffle.update({"SIZE": 3}).revision == 2
    assert [text.split(" SET")[0] for text in tries[:2]] == 2 * ["UPDATE waffle_namespace"]
    assert waffle.settings.SIZE == 3


def test_a_lock_that_lasts_is_a_clear_error_and_changes_nothing(impatient: Apps) -> None:
    _, waffle = impatient(WAFFLE_CONFS=CONFS)
    waffle.update({"SIZE": 2})
    with locked(impatient, "EXCLUSIVE"):
        with pytest.raises(StoreUnavailable, match="database is locked"):
            waffle.update({"SIZE": 3})
        with pytest.raises(StoreUnavailable, match="database is locked"):
            waffle.refresh()
        assert waffle.settings.SIZE == 2
    assert (waffle.refresh(), waffle.revision) == (False, 1)
    assert waffle.update({"SIZE": 3}).revision == 2


def test_a_commit_that_a_reader_blocks_is_an_error_and_changes_nothing(impatient: Apps) -> None:
    """SQLite's COMMIT waits for readers."""
    _, waffle = impatient(WAFFLE_CONFS=CONFS)
    waffle.update({"SIZE": 2})
    with locked(impatient, "DEFERRED") as reader:
        reader.execute("SELECT * FROM waffle_namespace").fetchall()
        with pytest.raises(StoreUnavailable, match="database is locked"):
            waffle.update({"SIZE": 3})
    assert (waffle.refresh(), waffle.revision) == (False, 1)
    assert waffle.update({"SIZE": 3}).revision == 2


# -- a database that is away -----------------------------------------------------------------------


def unreachable(kind: str, apps: Apps) -> str:
    if kind == "sqlite":
        return f"sqlite:///{apps.directory}/no/such/directory/waffle.db"
    driver = {"postgresql": "postgresql+psycopg", "mariadb": "mysql+pymysql"}[kind]
    return f"{driver}://user:Geheim7@127.0.0.1:{free_port()}/waffle"


@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "mariadb"])
def test_without_a_database_the_defaults_are_served_which_is_logged(
    apps: Apps, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    apps.database_uri = unreachable(kind, apps)
    app, waffle = apps(WAFFLE_CONFS=CONFS)
    assert (waffle.revision, waffle.settings.SITENAME) == (0, "Waffle")
    assert "starting with the declared defaults, as SQL does not answer" in caplog.text
    for write in (lambda: waffle.update({"SIZE": 2}), waffle.history, waffle.refresh):
        with pytest.raises(StoreUnavailable, match="cannot be used") as caught:
            write()
        assert caught.value.url in str(caught.value)
        assert "Geheim7" not in str(caught.value)
    assert "Geheim7" not in caplog.text
    assert (app.config["SIZE"], waffle.settings.SIZE) == (1, 1)


def test_a_restart_without_its_database_serves_the_host_snapshot_which_is_logged(
    apps: Apps, caplog: pytest.LogCaptureFixture
) -> None:
    app, waffle = apps(WAFFLE_CONFS=CONFS)
    waffle.update({"SIZE": 2})
    state_of(app).store.database.close()
    apps.database_uri = unreachable("postgresql", apps)
    _, later = apps(WAFFLE_CONFS=CONFS)
    assert (later.revision, later.settings.SIZE) == (1, 2)
    assert "starting with revision 1, as SQL does not answer" in caplog.text


def test_no_process_waits_for_ever_for_a_server_that_is_gone(server_apps: Apps) -> None:
    """The driver, or the kernel for it, gives up after a minute."""
    app, _ = server_apps()
    with state_of(app).store.database.engine.connect() as connection:
        driver_connection: Any = connection.connection.driver_connection
        if connection.dialect.name == "postgresql":
            descriptor = os.dup(driver_connection.fileno())
            with socket.socket(fileno=descriptor) as kept:
                idle = kept.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
                user = kept.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
            assert (idle, user) == (30, 60_000)
        else:
            assert driver_connection._read_timeout == 60  # noqa: SLF001  PyMySQL has no name for it
