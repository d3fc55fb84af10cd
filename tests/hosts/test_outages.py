"""Outages as whole applications see them: two hosts, one of which listens in a thread."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Apps, state_of
from tests.support import RedisServer, wait_until
from tests.support.listening import (
    SOON_SECONDS,
    TwoHosts,
    counted,
    messages,
    position,
)
from uwsgi_waffle.ops.status import collect
from uwsgi_waffle.process.writes import Writer

#: What a poll may take beyond its interval, beside two busy processors.
SLACK_SECONDS = 3.0
#: Within which a half-open socket is noticed and replaced.
HALF_OPEN_SECONDS = 15.0
PASSWORD = "Geheim-7"  # noqa: S105  made up
LOST = "cannot be listened to"
BACK = "answers again"


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """Make a Redis with a password, which is not started yet."""
    with contextlib.closing(RedisServer(password=PASSWORD)) as server:
        yield server


def assert_said_once(caplog: pytest.LogCaptureFixture, lost: int = 1, back: int = 1) -> None:
    """Assert that the log tells of transitions, and of nobody's password."""
    assert len(messages(caplog.records, LOST)) == lost
    assert len(messages(caplog.records, BACK)) == back
    assert PASSWORD not in caplog.text
    assert [r for r in caplog.records if r.levelno > logging.WARNING or r.exc_info] == []


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_what_is_committed_while_redis_is_away_is_read_on_its_return(
    apps: Apps, redis_server: RedisServer, caplog: pytest.LogCaptureFixture, end: str
) -> None:
    """With no poll ever, so it is the reading after the connection that finds it; each time."""
    redis_server.start()
    hosts = TwoHosts(apps, redis_server.url)
    hosts.listen(redis_server)
    for outage in range(1, 4):
        getattr(redis_server, end)()
        wait_until(lambda: not hosts.is_live(), SOON_SECONDS, "it is noticed")
        assert not hosts.change(10 * outage)
        assert hosts.size != 10 * outage
        redis_server.start()
        hosts.wait_until_serving(10 * outage)
        hosts.wait_until_heard_by(redis_server)
        assert_said_once(caplog, lost=outage, back=outage)


def test_while_redis_is_away_a_change_waits_for_one_poll_at_most(
    apps: Apps, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    redis_server.start()
    hosts = TwoHosts(apps, redis_server.url, poll_seconds=1.0)
    hosts.listen(redis_server)
    redis_server.kill()
    for size in range(2, 7):
        assert not hosts.change(size)
        hosts.wait_until_serving(size, 1.0 + SLACK_SECONDS)
    assert_said_once(caplog, back=0)


def test_a_half_open_socket_is_replaced_within_15_seconds(
    apps: Apps, caplog: pytest.LogCaptureFixture
) -> None:
    """The server behind the connection is frozen; a second one takes new ones, at its address."""
    first = RedisServer(password=PASSWORD, unix_socket=True)
    second = RedisServer(password=PASSWORD, extra_options=["--unixsocket", str(first.unix_socket)])
    with first, contextlib.closing(second):
        hosts = TwoHosts(apps, first.url)
        hosts.listen(first)
        first.pause()
        second.start()
        hosts.change(2)
        hosts.wait_until_serving(2, HALF_OPEN_SECONDS)
        hosts.wait_until_heard_by(second)
        assert_said_once(caplog)
        wait_until(lambda: hosts.change(3) or hosts.here.reset("SIZE"), SOON_SECONDS, "news go out")


def test_a_redis_that_refuses_the_password_is_one_that_is_away(
    apps: Apps, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    redis_server.start()
    hosts = TwoHosts(apps, redis_server.url.replace(PASSWORD, "Geheim-8"), poll_seconds=0.5)
    hosts.listen()
    assert not hosts.change(2)
    hosts.wait_until_serving(2, 0.5 + SLACK_SECONDS)
    assert_said_once(caplog, back=0)
    assert "Geheim" not in caplog.text
    with redis_server.client() as client:
        client.config_set("requirepass", "Geheim-8")
    wait_until(hosts.is_live, SOON_SECONDS, "Redis is heard")
    assert "Geheim" not in caplog.text


def test_a_listener_that_ends_lets_go_of_its_connection(
    apps: Apps, redis_server: RedisServer
) -> None:
    redis_server.start()
    hosts = TwoHosts(apps, redis_server.url)
    hosts.listen(redis_server)
    assert hosts.listener.environment is not None
    hosts.listener.environment.stop(SOON_SECONDS)
    assert not hosts.still_listens()
    assert not hosts.is_live()
    wait_until(lambda: redis_server.subscribers() == 0, SOON_SECONDS, "nobody is subscribed")


# -- another content of the database --------------------------------------------------------------


def put_in_place(backup: Path, live: Path) -> None:
    """Restore a backup as SQLite does, under those who have the database open."""
    with (
        contextlib.closing(sqlite3.connect(backup)) as source,
        contextlib.closing(sqlite3.connect(live)) as target,
    ):
        source.backup(target)


def test_a_restored_backup_is_not_taken_and_is_said_once(
    apps: Apps, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither by polls nor by a look; a change skips past what hosts have seen."""
    hosts = TwoHosts(apps, "unix:///no/such.sock", poll_seconds=0.2)
    live, backup = apps.directory / "waffle.db", apps.directory / "backup.db"
    hosts.listen()
    hosts.change(2)
    put_in_place(live, backup)
    hosts.change(3)
    hosts.change(4)
    hosts.wait_until_serving(4)
    before = position(hosts.listener)
    put_in_place(backup, live)
    with counted(hosts.listener) as statements:
        wait_until(lambda: len(statements) >= 5, SOON_SECONDS, "it has polled several times")
        assert not any("waffle_setting" in s for s in statements), "nothing to read the rows for"
    hosts.listener.reconciler.reconcile()
    assert hosts.listener.reconciler.behind == (before[0], 1)
    assert hosts.listener.host.position == before
    assert (hosts.size, position(hosts.listener)) == (4, before)
    assert len(messages(caplog.records, "flask waffle resync")) == 1
    hosts.change(5)
    hosts.wait_until_serving(5)
    assert position(hosts.listener) == (before[0], before[1] + 1)
    wait_until(lambda: hosts.listener.reconciler.behind is None, SOON_SECONDS, "all is well again")


def test_another_database_is_taken_whatever_its_revision(
    apps: Apps, caplog: pytest.LogCaptureFixture
) -> None:
    hosts = TwoHosts(apps, "unix:///no/such.sock", poll_seconds=0.2)
    hosts.listen()
    hosts.change(2)
    hosts.change(3)
    hosts.wait_until_serving(3)
    before = position(hosts.listener)
    other = Apps(apps.directory / "other", f"sqlite:///{apps.directory}/other.db")
    _, waffle = other(WAFFLE_CONFS={"SIZE": {"default": 1}})
    waffle.update({"SIZE": 99})
    other.close()
    put_in_place(apps.directory / "other.db", apps.directory / "waffle.db")
    hosts.wait_until_serving(99)
    after = position(hosts.listener)
    assert after[0] != before[0]
    assert after[1] == 1 < before[1]
    assert messages(caplog.records, "flask waffle resync") == []


def test_a_database_that_is_emptied_under_a_running_application_changes_nothing(
    apps: Apps, caplog: pytest.LogCaptureFixture
) -> None:
    """As `pg_restore --clean` does: neither while it is empty, nor by an older backup."""
    hosts = TwoHosts(apps, "unix:///no/such.sock", poll_seconds=0.2)
    live, backup, empty = (apps.directory / f"{n}.db" for n in ("waffle", "backup", "empty"))
    hosts.listen()
    hosts.change(2)
    put_in_place(live, backup)
    hosts.change(3)
    hosts.wait_until_serving(3)
    before = position(hosts.listener)
    put_in_place(empty, live)
    with counted(hosts.listener) as statements:
        wait_until(lambda: len(statements) >= 5, SOON_SECONDS, "it has polled several times")
    hosts.listener.refresh()
    assert hosts.listener.reconciler.behind == ("", 0)
    assert (hosts.size, position(hosts.listener)) == (3, before)
    assert len(messages(caplog.records, "holds no settings any more")) == 1
    status = collect(hosts.listener)
    assert any("holds no settings" in problem for problem in status.problems)
    assert (status.fleet.revision, status.fleet.missing) == (before[1], ())
    put_in_place(backup, live)
    wait_until(
        lambda: hosts.listener.reconciler.behind == (before[0], 1), SOON_SECONDS, "it has polled"
    )
    assert (hosts.size, position(hosts.listener)) == (3, before)
    hosts.change(4)
    hosts.wait_until_serving(4)
    assert position(hosts.listener) == (before[0], before[1] + 1)


def test_a_database_that_was_emptied_is_written_to_as_a_new_one(
    apps: Apps, caplog: pytest.LogCaptureFixture
) -> None:
    hosts = TwoHosts(apps, "unix:///no/such.sock", poll_seconds=0.2)
    hosts.listen()
    hosts.change(3)
    hosts.wait_until_serving(3)
    before = position(hosts.listener)
    put_in_place(apps.directory / "empty.db", apps.directory / "waffle.db")
    hosts.change(9)
    hosts.wait_until_serving(9)
    after = position(hosts.listener)
    assert after[0] != before[0]
    assert after[1] == 1
    assert len(messages(caplog.records, "begins a new history")) == 1


def test_a_write_that_changes_nothing_makes_no_history(apps: Apps) -> None:
    """Neither on a database that was never written to, nor on one that was emptied."""
    hosts = TwoHosts(apps, "unix:///no/such.sock", poll_seconds=0.2)
    hosts.listen()
    hosts.change(1)
    assert hosts.writer.host.position == hosts.writer.store.peek() == ("", 0)
    hosts.change(3)
    hosts.wait_until_serving(3)
    before = position(hosts.listener)
    put_in_place(apps.directory / "empty.db", apps.directory / "waffle.db")
    hosts.change(1)
    hosts.here.reset("SIZE")
    assert hosts.writer.host.position == before
    assert hosts.here.settings.SIZE == 3
    hosts.listener.refresh()
    assert (hosts.size, position(hosts.listener)) == (3, before)


#: An application on a host of its own; says what it serves, and runs until its input ends.
APPLICATION = """
import sys
from flask import Flask
from uwsgi_waffle import WaffleConf
app = Flask("process", instance_path=sys.argv[1])
app.config.update(
    WAFFLE_DATABASE_URI=f"sqlite:///{sys.argv[1]}/waffle.db",
    WAFFLE_SNAPSHOT_PATH=f"{sys.argv[1]}/snapshot",
    WAFFLE_CONFS={"SIZE": {"default": 1}},
)
waffle = WaffleConf(app)
for size in sys.argv[2:]:
    waffle.update({"SIZE": int(size)})
print(waffle.settings.SIZE, flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def application(directory: Path, *sizes: int) -> Iterator[int]:
    """Run an application that sets some sizes, and give the one that it serves in the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", APPLICATION, str(directory), *map(str, sizes)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


def test_an_application_that_starts_on_an_emptied_database_serves_the_defaults(
    tmp_path: Path,
) -> None:
    """Unless another process of its host still runs, which it must agree with."""
    with application(tmp_path, 2) as first:
        put_in_place(tmp_path / "empty.db", tmp_path / "waffle.db")
        with application(tmp_path) as second:
            assert (first, second) == (2, 2)
    with application(tmp_path) as third:
        assert third == 1


def test_a_process_that_nobody_knew_of_follows_its_host_to_an_emptied_database(apps: Apps) -> None:
    """One that has not served a request yet is not listed; it must not serve something else."""
    confs = {"SIZE": {"default": 1}}
    app, first = apps(WAFFLE_CONFS=confs)
    state = state_of(app)
    Writer(state).update({"SIZE": 7})
    assert state.host.slots.living() == []
    put_in_place(apps.directory / "empty.db", apps.directory / "waffle.db")
    _, second = apps(WAFFLE_CONFS=confs)
    assert (first.settings.SIZE, second.settings.SIZE) == (1, 1)
    assert collect(state).problems == ()
