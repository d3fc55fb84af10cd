"""`init-db`, `resync`, `rotate-keys`, `prune` and `listen`, and 10,000 revisions."""

from __future__ import annotations

import signal
import subprocess
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from cryptography.fernet import Fernet
from pydantic import SecretStr

from tests.cli.conftest import Site
from tests.conftest import Apps, execute, state_of
from tests.support import RedisServer
from tests.support.command_line import flask_command, flask_environment
from tests.support.command_line import run_in_process as run
from tests.support.soak import is_soak, times
from tests.support.waiting import NEVER_SECONDS, SOON_SECONDS
from uwsgi_waffle import WaffleSettings
from uwsgi_waffle.sql.declared import CHANGE, NAMESPACE, SETTING


class Settings(WaffleSettings):
    """A number and a secret."""

    A: int = 0
    API_KEY: SecretStr = SecretStr("k")


@pytest.fixture
def site(apps: Apps) -> Site:
    """Give an application with five revisions."""
    app, waffle = apps(Settings)
    for value in range(1, 6):
        waffle.update({"A": value})
    return app, waffle


# -- tables -----------------------------------------------------------------------------------


def test_init_db_makes_the_tables_where_auto_create_is_off(database_apps: Apps) -> None:
    app, _ = database_apps(Settings, WAFFLE_AUTO_CREATE=False)
    refused = run(app, "set", "A=1")
    assert refused.status == 1
    assert "flask waffle init-db" in refused.errors
    assert run(app, "doctor").status == 1
    assert run(app, "init-db").status == 0
    assert run(app, "init-db", "--json").json == {"database": state_of(app).store.database.url}
    assert state_of(app).store.read().keys, "the first change can be announced"
    assert run(app, "set", "A=1").status == 0


# -- prune ------------------------------------------------------------------------------------


def test_prune_keeps_the_latest_revisions(site: Site) -> None:
    dry = run(site[0], "prune", "--keep", "2", "--dry-run")
    assert dry.output.startswith("Dry run: would remove 2 lines of history; left: 3.\n")
    assert len(site[1].history()) == 5
    done = run(site[0], "prune", "--keep", "2", "--json")
    assert done.json == {"oldest_revision": 3, "removed": 2, "kept": 3, "dry_run": False}
    assert run(site[0], "rollback", "2", "--yes").status == 1
    assert run(site[0], "rollback", "3", "--yes").status == 0
    assert site[1].settings.A == 3


@pytest.mark.parametrize(("age", "left"), [("90d", 3), ("1d", 3), ("52w", 5), ("0s", 1)])
def test_prune_forgets_what_is_older_than_an_age(
    site: Site, apps: Apps, age: str, left: int
) -> None:
    execute(
        apps.database_uri,
        "UPDATE waffle_change SET at = datetime('now', '-100 days') WHERE revision <= 3",
    )
    done = run(site[0], "prune", "--older-than", age)
    assert done.status == 0
    assert len(site[1].history()) == left
    assert site[1].settings.A == 5


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--keep", "2", "--older-than", "90d"],
        ["--older-than", "soon"],
        ["--older-than", "999999w"],  # before the calendar
        ["--keep", "-1"],
    ],
)
def test_prune_asks_for_one_measure(site: Site, arguments: list[str]) -> None:
    assert run(site[0], "prune", *arguments).status == 2
    assert len(site[1].history()) == 5


def test_prune_may_keep_more_revisions_than_a_database_counts(site: Site) -> None:
    assert run(site[0], "prune", "--keep", str(10**30)).status == 0
    assert len(site[1].history()) == 5


# -- keys and backups -------------------------------------------------------------------------


def test_rotate_keys_seals_anew_and_is_a_revision_without_a_change(apps: Apps) -> None:
    apps(Settings)[1].update({"API_KEY": "s3cret"})
    app, waffle = apps(Settings, WAFFLE_ENCRYPTION_KEYS=[Fernet.generate_key().decode()])
    assert "secrets-unsealed" in run(app, "doctor", "--json").output
    done = run(app, "rotate-keys")
    assert "with the first encryption key: 1 present value, 1 line of history." in done.output
    assert "secrets-unsealed" not in run(app, "doctor", "--json").output
    assert waffle.revision == 2
    assert len(waffle.history()) == 1
    assert run(app, "get", "API_KEY", "--reveal").output == "s3cret\n"
    assert run(app, "rotate-keys", "--json").json == {"revision": 3, "values": 1, "history": 1}
    assert "s3cret" not in str(execute(apps.database_uri, "SELECT old, new FROM waffle_change"))


def test_rotate_keys_makes_a_message_key_where_no_secret_is_sealed(site: Site) -> None:
    """Other hosts still understand this one by the key before it."""
    app, waffle = site
    before = state_of(app).host.keys
    done = run(app, "rotate-keys")
    assert done.status == 0
    assert "No secret was sealed, as WAFFLE_ENCRYPTION_KEYS is not set." in done.output
    keys = state_of(app).host.keys
    assert (len(keys), keys[1:]) == (2, before)
    assert not any(key in done.output for key in keys)
    assert (waffle.revision, waffle.settings.A) == (6, 5)
    assert run(app, "rotate-keys", "--json").json == {"revision": 7, "values": 0, "history": 0}


def test_resync_lets_a_restored_backup_be_served(site: Site, apps: Apps) -> None:
    app = site[0]
    assert run(app, "resync").output.startswith("Nothing to do: SQL is at revision 5")
    execute(apps.database_uri, "DELETE FROM waffle_change WHERE revision > 2")
    execute(apps.database_uri, "UPDATE waffle_setting SET value = '2', revision = 2")
    execute(apps.database_uri, "UPDATE waffle_namespace SET revision = 2")
    assert "flask waffle resync" in run(app, "status").output
    assert "database-behind" in run(app, "doctor", "--json").output
    assert run(app, "get", "A").output == "5\n"
    assert run(app, "resync", "--json").json == {"revision": 6, "moved": True}
    assert run(app, "get", "A").output == "2\n"
    assert "flask waffle resync" not in run(app, "status").output


# -- many revisions -----------------------------------------------------------------------------

REVISIONS = times(1_000, 10_000)
#: Each command needs a small part of it. Beside other tests, only its own work counts.
MOST_SECONDS = 1.0
now = time.monotonic if is_soak() else time.process_time


@pytest.fixture
def long_history(database_apps: Apps) -> Site:
    """Give an application with many revisions, each of one setting and every tenth of both."""
    app, waffle = database_apps(Settings)
    waffle.update({"A": 1})
    state = state_of(app)
    log = {"namespace": "default", "is_default": False, "actor": "a", "comment": "c"}
    log |= {"source": "cli", "at": datetime.now(timezone.utc).replace(tzinfo=None)}
    lines = [
        {**log, "revision": n, "name": "A", "old": str(n - 1), "new": str(n)}
        for n in range(2, REVISIONS + 1)
    ]
    lines += [
        {**log, "revision": n, "name": "API_KEY", "old": '"k"', "new": '"l"'}
        for n in range(10, REVISIONS + 1, 10)
    ]
    with state.store.database.engine.begin() as connection:
        connection.execute(sa.insert(CHANGE), lines)
        connection.execute(sa.update(NAMESPACE).values(revision=REVISIONS))
        connection.execute(sa.update(SETTING).values(value=str(REVISIONS), revision=REVISIONS))
    return app, waffle


def test_a_long_history_does_not_slow_the_commands_down(long_history: Site) -> None:
    app, waffle = long_history
    seconds: dict[str, float] = {}
    for command in (
        ["status"],
        ["history"],
        ["history", "A"],
        ["set", "A=1", "--no-wait"],
        ["rollback", "1", "--yes", "--no-wait"],
        ["rollback", str(REVISIONS - 1), "--yes", "--no-wait"],
        ["prune", "--keep", str(REVISIONS // 10)],
        ["rollback", str(REVISIONS - 50), "--yes", "--no-wait"],
    ):
        began = now()
        done = run(app, *command)
        seconds[" ".join(command)] = now() - began
        assert done.status == 0, done.errors
    print({command: f"{spent * 1000:.0f} ms" for command, spent in seconds.items()})  # noqa: T201
    assert waffle.settings.A == REVISIONS - 50
    assert max(seconds.values()) < MOST_SECONDS, seconds


# -- listen -----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_listen_is_a_listener_of_its_host_until_it_is_ended(
    redis_server: RedisServer, apps: Apps, tmp_path: Path, number: signal.Signals
) -> None:
    """The status shows it as live, it brings changes of other hosts, and it ends cleanly."""
    environment: dict[str, Any] = {
        "WAFFLE_DATABASE_URI": apps.database_uri,
        "WAFFLE_REDIS_URL": redis_server.url,
        "WAFFLE_MULTIPROC": "true",
        "WAFFLE_POLL_SECONDS": str(NEVER_SECONDS),
        "WAFFLE_SNAPSHOT_PATH": str(tmp_path / "there" / "snapshot"),
    }
    log = tmp_path / "log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            flask_command("tests.apps.whole_numbers:app", "listen"),
            env=flask_environment(environment),
            stdout=output,
            stderr=output,
        ) as listener,
    ):
        try:
            redis_server.wait_for_subscribers(1)
            del environment["WAFFLE_SNAPSHOT_PATH"]
            confs = {f"S{number:03}": {"default": 0} for number in range(20)}
            app, _ = apps(WAFFLE_CONFS=confs, **environment)
            done = run(app, "set", "S000=5", "--timeout", str(SOON_SECONDS))
            assert done.status == 0, done.errors
            assert "revision 1: 1 of 1 process on 1 host" in done.output
            (host,) = run(app, "status", "--json").json["fleet"]["hosts"]
            assert host["listener"]["state"] == "live"
            (process,) = host["processes"]
            assert (process["role"], process["pid"]) == ("listener", listener.pid)
            assert process["revision"] == 1
            listener.send_signal(number)
            assert listener.wait(SOON_SECONDS) == 0
        finally:
            listener.kill()
    assert log.read_text().endswith("Ended.\n")
    (own,) = run(app, "status", "--json").json["fleet"]["hosts"]
    assert own["id"] != host["id"], "it has retired its host"
