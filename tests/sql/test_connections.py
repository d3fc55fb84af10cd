"""Connections: replaced files, servers that turn read-only, poolers, encodings and owners."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sqlite3
import subprocess
import tempfile
from pathlib import Path
from typing import Any, ClassVar, TextIO

import pytest
import sqlalchemy as sa

from tests.conftest import Apps, execute, state_of
from tests.sql.conftest import CONFS
from tests.support import fresh_database, require
from tests.support.availability import require_program
from tests.support.processes import LocalServer
from uwsgi_waffle import StoreUnavailable
from uwsgi_waffle.sql.database import Database
from uwsgi_waffle.sql.holders import owner_of_file

NOBODY = 65534
#: The release of PgBouncer from which on prepared statements may be used behind it.
PREPARES_SINCE = (1, 21)


def test_a_sqlite_file_that_another_one_replaces_is_the_database_at_once(apps: Apps) -> None:
    _, waffle = apps(WAFFLE_CONFS=CONFS)
    waffle.update({"SIZE": 2})
    path = Path(apps.database_uri.removeprefix("sqlite:///"))
    other = path.with_name("other.db")
    shutil.copy(path, other)
    execute(f"sqlite:///{other}", "UPDATE waffle_namespace SET revision = 7, stamp = 'aa'")
    other.rename(path)
    assert waffle.refresh()
    assert waffle.revision == 7
    shutil.copy(path, other)
    other.rename(path)
    assert waffle.update({"SIZE": 3}).revision == 8
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT revision FROM waffle_namespace").fetchone() == (8,)


def test_after_a_read_only_phase_a_held_connection_is_replaced(tmp_path: Path) -> None:
    with fresh_database("postgresql") as url, contextlib.closing(Apps(tmp_path, url)) as apps:
        app, waffle = apps(WAFFLE_CONFS=CONFS)
        waffle.update({"SIZE": 2})
        name = sa.make_url(url).database
        execute(url, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        state_of(app).store.database.close()
        with pytest.raises(StoreUnavailable, match="read-only transaction"):
            waffle.update({"SIZE": 3})
        assert waffle.refresh() is False
        execute(
            url,
            "SET TRANSACTION READ WRITE",
            f"ALTER DATABASE {name} RESET default_transaction_read_only",
        )
        assert waffle.update({"SIZE": 3}).revision == 2


def pgbouncer_version() -> tuple[int, ...]:
    """Return the release of the PgBouncer that is installed."""
    said = subprocess.run(
        [require_program("pgbouncer"), "--version"], capture_output=True, text=True, check=True
    )
    found = re.search(r"PgBouncer ([\d.]+)", said.stdout)
    assert found is not None, said.stdout
    return tuple(map(int, found[1].split(".")))


class Pgbouncer(LocalServer):
    """Lends the sessions of a PostgreSQL for a transaction each."""

    name: ClassVar[str] = "pgbouncer"
    unprivileged_users: ClassVar[tuple[str, ...]] = ("postgres", "nobody")

    def __init__(self, url: sa.URL) -> None:
        super().__init__()
        self.url = url.set(port=self.port)
        self._target = url

    def prepare(self) -> None:
        """Write its configuration."""
        users = self.directory / "users"
        users.write_text('"postgres" ""\n')
        target = f"host={self._target.host} port={self._target.port}"
        (self.directory / "ini").write_text(
            f"[databases]\n* = {target}\n[pgbouncer]\npool_mode = transaction\nauth_type = trust\n"
            f"auth_file = {users}\nlisten_addr = 127.0.0.1\nlisten_port = {self.port}\n"
            f"unix_socket_dir =\ndefault_pool_size = 2\n"
            + ("max_prepared_statements = 20\n" if pgbouncer_version() >= PREPARES_SINCE else "")
        )

    def command(self) -> list[str]:
        """Return the command that runs it."""
        return [require_program("pgbouncer"), str(self.directory / "ini")]

    def answers(self) -> bool:
        """Whether it lends a session."""
        engine = sa.create_engine(self.url, poolclass=sa.NullPool)
        try:
            engine.connect().close()
        except sa.exc.OperationalError:
            return False
        return True


@pytest.mark.parametrize("query", ["", "?prepare_threshold=1"], ids=["unprepared", "prepared"])
def test_a_pooler_that_lends_a_session_for_a_transaction(query: str, tmp_path: Path) -> None:
    """Prepared statements are of one session; limits of ours stay with no other application."""
    if query and pgbouncer_version() < PREPARES_SINCE:
        pytest.skip("PgBouncer keeps prepared statements for its clients from 1.21 on")
    with (
        fresh_database("postgresql") as url,
        Pgbouncer(sa.make_url(url).set(username="postgres")) as pooler,
        contextlib.closing(Apps(tmp_path, f"{pooler.url}{query}")) as apps,
    ):
        _, waffle = apps(WAFFLE_CONFS=CONFS)
        _, other = apps(WAFFLE_CONFS=CONFS, host="there")
        for number in range(1, 30):
            assert waffle.update({"SIZE": 2 * number}).revision == 2 * number - 1
            assert other.update({"SIZE": 2 * number + 1}).revision == 2 * number
        assert execute(str(pooler.url), "SHOW lock_timeout") == [("0",)]


@pytest.mark.parametrize(("query", "threshold"), [("", None), ("?prepare_threshold=3", 3)])
def test_prepared_statements_are_off_unless_the_url_asks_for_them(
    query: str, threshold: int | None
) -> None:
    with fresh_database("postgresql") as url:
        database = Database(url + query, auto_create=True)
        with database.engine.connect() as connection:
            line: Any = connection.connection.driver_connection
            assert line.prepare_threshold == threshold
        database.close()


@pytest.mark.parametrize(
    ("kind", "query"), [("mariadb", "?charset=latin1"), ("postgresql", "?client_encoding=latin1")]
)
def test_any_text_is_stored_whatever_encoding_the_url_names(
    kind: Any, query: str, tmp_path: Path
) -> None:
    with fresh_database(kind) as url, contextlib.closing(Apps(tmp_path, url + query)) as apps:
        _, waffle = apps(WAFFLE_CONFS=CONFS)
        assert waffle.update({"SITENAME": "größer 🧇"}, actor="Zoë 🧇").revision == 1
        assert waffle.history()[0].actor == "Zoë 🧇"
        assert apps(WAFFLE_CONFS=CONFS, host="there")[1].settings.SITENAME == "größer 🧇"


@pytest.mark.parametrize("revision", ["-5", str(2**63 - 1), "'many'", "1e300"])
def test_an_absurd_revision_is_named_and_the_application_starts(
    revision: str, apps: Apps, caplog: pytest.LogCaptureFixture
) -> None:
    _, waffle = apps(WAFFLE_CONFS=CONFS)
    waffle.update({"SIZE": 2})
    execute(apps.database_uri, f"UPDATE waffle_namespace SET revision = {revision}")  # noqa: S608  # ours
    _, later = apps(WAFFLE_CONFS=CONFS, host="there")
    assert later.settings.SIZE == 1
    assert "which is no whole number from 0" in caplog.text
    with pytest.raises(StoreUnavailable, match="no whole number from 0"):
        later.update({"SIZE": 3})
    execute(apps.database_uri, "UPDATE waffle_namespace SET revision = 1")
    assert later.update({"SIZE": 3}).revision == 2


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (0o755, "waffle.db belongs to user root, and this process runs as nobody"),
        (0o700, "This process runs as nobody, who may not enter a directory of"),
    ],
)
def test_a_sqlite_file_of_another_user_is_an_error_that_names_both(
    mode: int, expected: str, tmp_path: Path
) -> None:
    require(os.geteuid() == 0, "the right to become another user (root)")
    # pytest's own directories are closed to other users.
    with tempfile.TemporaryDirectory(prefix="waffle-owner-") as directory:
        path = Path(directory, "waffle.db")
        with contextlib.closing(Apps(tmp_path, f"sqlite:///{path}")) as apps:
            apps(WAFFLE_CONFS=CONFS)[1].update({"SIZE": 2})
        Path(directory).chmod(mode)
        said = tmp_path / "said"
        with said.open("w") as file:
            pid = os.fork()
            if pid == 0:
                try:
                    _write_as_nobody(path, file)
                finally:  # whatever happens, the child must not go on with the tests
                    file.flush()
                    os._exit(0)
        os.waitpid(pid, 0)
    assert expected in said.read_text()


def test_a_sqlite_file_of_ones_own_that_is_read_only_is_no_other_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container whose file systems are read-only; to `chown` it would not help."""
    path = tmp_path / "waffle.db"
    path.touch(0o600)
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    assert owner_of_file(path).endswith("is read-only: by its mode, 600, or with its file system.")


def _write_as_nobody(path: Path, said: TextIO) -> None:
    """Try to write a database as another user, in a child process, and tell what happens."""
    os.setresuid(NOBODY, NOBODY, NOBODY)
    database = Database(f"sqlite:///{path}", auto_create=True)
    statement = sa.text("DELETE FROM waffle_host")
    try:
        database.write(lambda connection: connection.execute(statement))
    except Exception as error:  # noqa: BLE001  # the test shows it
        said.write(f"{type(error).__name__}: {error}")


def test_a_directory_that_is_missing_is_named(apps: Apps, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    uri = f"sqlite:///{missing}/waffle.db"
    _, waffle = apps(WAFFLE_CONFS=CONFS, WAFFLE_DATABASE_URI=uri)
    with pytest.raises(StoreUnavailable, match=f"There is no directory {missing}: make it.$"):
        waffle.update({"SIZE": 3})
    (problem,) = waffle.status().problems
    assert problem.endswith("make it. The last known settings are served.")
