"""No change waits for ever: for a lock, for a server that is stopped, or for a lost answer."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.conftest import Apps, state_of
from tests.sql.conftest import CONFS
from tests.sql.test_store_faults import CuttingProxy
from tests.sql.writer import Settings, hold_lock, writers
from tests.support.databases import SERVERS, fresh_database
from tests.support.processes import LocalServer, process_state
from tests.support.waiting import SOON_SECONDS, wait_until
from uwsgi_waffle import StoreUnavailable
from uwsgi_waffle.sql import database, limits

TOUCH = "UPDATE waffle_namespace SET pruned = pruned"


@contextlib.contextmanager
def row_held(url: str) -> Iterator[sa.Connection]:
    """Hold the lock that every writer takes, as an operator's open session does."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.execute(sa.text(TOUCH))
        yield connection


def test_a_lock_that_another_session_holds_is_waited_for_once_and_its_holder_is_named(
    database_apps: Apps,
) -> None:
    _, waffle = database_apps(WAFFLE_CONFS=CONFS)
    waffle.update({"SIZE": 2})
    if database_apps.database_uri.startswith("postgresql"):
        holding = f"{database_apps.database_uri}?application_name=an-open-psql"
    else:
        holding = database_apps.database_uri
    with row_held(holding) as holder:
        started_at = time.monotonic()
        with pytest.raises(StoreUnavailable, match="locked by another transaction") as caught:
            waffle.update({"SIZE": 3})
        waited = time.monotonic() - started_at
        dialect = holder.dialect.name
        if dialect != "sqlite":
            function = "pg_backend_pid" if dialect == "postgresql" else "connection_id"
            held_by = holder.execute(sa.text(f"SELECT {function}()")).scalar()
            assert f"held by connection {held_by} of the database" in str(caught.value)
        else:
            assert "held by this very process" in str(caught.value)
        if dialect == "postgresql":
            assert "an-open-psql" in str(caught.value)
    assert 4 < waited < 9, waited
    assert caught.value.waited_seconds == pytest.approx(waited, abs=2)
    assert str(caught.value.holder) in str(caught.value)
    assert waffle.update({"SIZE": 3}).revision == 2


def test_a_longer_transaction_in_another_database_is_not_named_for_one_in_ours(
    tmp_path: Path,
) -> None:
    """MariaDB does not tell which table a transaction has locked."""
    with contextlib.ExitStack() as stack:
        urls = [stack.enter_context(fresh_database("mariadb")) for _ in range(2)]
        made = [
            stack.enter_context(contextlib.closing(Apps(tmp_path / f"{number}", url)))
            for number, url in enumerate(urls)
        ]
        waffles = [apps(WAFFLE_CONFS=CONFS)[1] for apps in made]
        for waffle in waffles:
            waffle.update({"SIZE": 2})
        longer = stack.enter_context(row_held(urls[0]))
        began = "SELECT trx_started < now() FROM information_schema.innodb_trx WHERE "
        mine = sa.text(f"{began} trx_mysql_thread_id = connection_id()")
        wait_until(lambda: longer.execute(mine).scalar(), SOON_SECONDS, "it began a second ago")
        holder = stack.enter_context(row_held(urls[1]))
        with pytest.raises(StoreUnavailable) as caught:
            waffles[1].update({"SIZE": 3})
        held_by = holder.execute(sa.text("SELECT connection_id()")).scalar()
        assert f"held by connection {held_by} of the database" in str(caught.value)


def test_a_writer_that_was_stopped_locks_the_others_out_for_a_limited_time(
    server_apps: Apps,
) -> None:
    """The server ends its transaction; its own change is refused, or made anew."""
    _, waffle = server_apps(Settings)
    waffle.update({"LAST": "before"})
    with writers(hold_lock, server_apps, 1, 1) as ((writer, connection),):
        assert connection.poll(SOON_SECONDS)
        assert connection.recv() == "holding"
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGSTOP)

        def can_update() -> bool:
            with contextlib.suppress(StoreUnavailable):
                return waffle.update({"LAST": "after"}).revision == 2
            return False

        wait_until(can_update, limits.ABANDONED_SECONDS + limits.LOCK_SECONDS + 2, "the lock")


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_a_server_that_is_stopped_is_given_up(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once before the commit, and once with the commit in flight, which may yet be made."""
    monkeypatch.setattr(database.Database.write, "__kwdefaults__", {"seconds": 2})
    monkeypatch.setattr(database, "SETTLE_SECONDS", 2)
    with SERVERS[kind]() as server, contextlib.closing(Apps(tmp_path, server.url)) as apps:
        app, waffle = apps(WAFFLE_CONFS=CONFS)
        waffle.update({"SIZE": 2})
        signal_all(server, signal.SIGSTOP)
        started_at = time.monotonic()
        with pytest.raises(StoreUnavailable, match="did not answer within 2 s") as caught:
            waffle.update({"SIZE": 3})
        assert time.monotonic() - started_at < 6
        assert caught.value.is_outcome_known
        signal_all(server, signal.SIGCONT)
        assert wait_until(lambda: quietly(waffle, 4), SOON_SECONDS, "it answers again")

        def stop(_connection: object) -> None:
            signal_all(server, signal.SIGSTOP)

        engine = state_of(app).store.database.engine
        sa.event.listen(engine, "commit", stop, once=True)
        started_at = time.monotonic()
        with pytest.raises(StoreUnavailable, match="was committed is not known") as caught:
            waffle.update({"SIZE": 5})
        assert time.monotonic() - started_at < 2 + 2 + 6
        assert not caught.value.is_outcome_known
        signal_all(server, signal.SIGCONT)


def signal_all(server: LocalServer, number: signal.Signals) -> None:
    """Send a signal to a server and its children, leaders of sessions in PostgreSQL.

    Those that are stopped, are so when this returns.
    """
    everyone = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    pids = [pid for pid in everyone if server.pid in (pid, (process_state(pid) or ("", 0))[1])]
    for pid in pids:
        os.kill(pid, number)
    if number == signal.SIGSTOP:
        wait_until(lambda: all(map(is_stopped, pids)), SOON_SECONDS, "all are stopped")


def is_stopped(pid: int) -> bool:
    """Return whether a process is stopped, or gone."""
    return (process_state(pid) or ("T", 0))[0] in ("T", "Z")


def quietly(waffle: Any, size: int) -> bool:
    try:
        return bool(waffle.update({"SIZE": size}))
    except StoreUnavailable:
        return False


@pytest.mark.parametrize("arrives", [True, False], ids=["arrives late", "never arrives"])
def test_a_commit_whose_connection_broke_is_waited_for(server_apps: Apps, *, arrives: bool) -> None:
    """The commit is on its way when the connection breaks, so its transaction is still open."""
    with contextlib.closing(LateProxy(server_apps)) as proxy:
        proxy.arrives = arrives
        _, waffle = server_apps(WAFFLE_CONFS=CONFS)
        waffle.update({"SIZE": 2})
        proxy.cuts_commit = True
        if arrives:
            assert waffle.update({"SIZE": 3}).revision == 2
        else:
            with pytest.raises(StoreUnavailable, match="cannot be used") as caught:
                waffle.update({"SIZE": 3})
            assert caught.value.is_outcome_known
        assert len(waffle.history()) == (2 if arrives else 1)


class LateProxy(CuttingProxy):
    """Cuts the client off at its COMMIT, which reaches the server two seconds later, or never."""

    arrives = True

    def _delays(self, client: socket.socket, server: socket.socket, commit: bytes) -> bool:
        client.shutdown(socket.SHUT_RDWR)
        time.sleep(2)
        if self.arrives:
            server.sendall(commit)
            server.recv(65536)
        return True


def test_an_open_transaction_of_the_application_itself_is_refused_soon(apps: Apps) -> None:
    _, waffle = apps(WAFFLE_CONFS=CONFS)
    waffle.update({"SIZE": 2})
    own = sqlite3.connect(apps.database_uri.removeprefix("sqlite:///"), isolation_level=None)
    with contextlib.closing(own):
        own.execute("BEGIN IMMEDIATE")
        started_at = time.monotonic()
        with pytest.raises(StoreUnavailable, match="held by this very process, so probably by"):
            waffle.update({"SIZE": 3})
        assert time.monotonic() - started_at < 8


def test_another_process_that_holds_sqlites_lock_is_named(apps: Apps) -> None:
    apps.database_uri += "?timeout=0.1"
    _, waffle = apps(Settings)
    with writers(hold_lock, apps, 1, 1) as ((writer, connection),):
        assert connection.poll(SOON_SECONDS)
        assert connection.recv() == "holding"
        with pytest.raises(StoreUnavailable, match=rf"held by process {writer.pid} \(python"):
            waffle.update({"LAST": "x"})


def test_writers_that_wait_leave_connections_to_read_with(server_apps: Apps) -> None:
    app, waffle = server_apps(WAFFLE_CONFS=CONFS)
    waffle.update({"SIZE": 2})
    failures: list[str] = []

    def write(size: int) -> None:
        try:
            waffle.update({"SIZE": size})
        except StoreUnavailable as error:
            failures.append(str(error))

    with row_held(server_apps.database_uri):
        threads = [threading.Thread(target=write, args=(n,)) for n in range(10, 22)]
        for thread in threads:
            thread.start()
        pool: Any = state_of(app).store.database.engine.pool
        wait_until(lambda: pool.checkedout() >= 5, SOON_SECONDS, "writers wait")
        started_at = time.monotonic()
        assert len(waffle.history()) == 1
        assert time.monotonic() - started_at < 2
        for thread in threads:
            thread.join()
    assert len(failures) == 12
    assert "QueuePool" not in "".join(failures)
    assert any("other threads of this process are changing settings" in one for one in failures)
