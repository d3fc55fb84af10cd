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

from tests.conftest import REDIS_PASSWORD, Apps, state_of
from tests.support import RedisServer, wait_until
from tests.support.listening import Host, messages
from tests.support.soak import is_soak, times
from tests.support.statements import recording
from tests.support.waiting import NEVER_SECONDS, SOON_SECONDS
from uwsgi_waffle.bus import subscription
from uwsgi_waffle.ops.status import collect
from uwsgi_waffle.values.position import NOWHERE

LOST = "cannot be listened to"
BACK = "answers again"
NO_REDIS = "unix:///no/such.sock"


def pair(
    apps: Apps, redis: RedisServer | str = NO_REDIS, *, poll_seconds: float = 0.2
) -> tuple[Host, Host]:
    """Return a host that writes, and one that listens."""
    return (
        Host(apps, "here", redis, listens=False),
        Host(apps, "there", redis, poll_seconds=poll_seconds),
    )


def assert_logged_once(caplog: pytest.LogCaptureFixture, lost: int = 1, back: int = 1) -> None:
    """Check that each loss and return is one line in the log, without a password."""
    assert len(messages(caplog.records, LOST)) == lost
    assert len(messages(caplog.records, BACK)) == back
    assert REDIS_PASSWORD not in caplog.text
    assert [r for r in caplog.records if r.levelno > logging.WARNING or r.exc_info] == []


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_what_is_committed_while_redis_is_away_is_read_on_its_return(
    apps: Apps, own_redis: RedisServer, caplog: pytest.LogCaptureFixture, end: str
) -> None:
    """Without any poll, so the read after the connection finds it; each time."""
    here, there = pair(apps, own_redis, poll_seconds=NEVER_SECONDS)
    there.listen(own_redis)
    for outage in range(1, times(2, 5) + 1):
        getattr(own_redis, end)()
        there.wait_until_listener("polling")
        assert not here.change(10 * outage)
        assert there.size != 10 * outage
        own_redis.start()
        there.wait_until_serving(10 * outage)
        there.wait_until_heard_by(own_redis)
        assert_logged_once(caplog, lost=outage, back=outage)


def test_while_redis_is_away_changes_arrive_by_polls(
    apps: Apps, own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    here, there = pair(apps, own_redis)
    there.listen(own_redis)
    own_redis.kill()
    for size in range(2, 7):
        assert not here.change(size)
        there.wait_until_serving(size)
    there.wait_until_listener("polling")
    assert_logged_once(caplog, back=0)


def test_a_half_open_connection_is_replaced(
    apps: Apps, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server behind the connection is frozen; a second one accepts new ones, at its address.

    It takes less than 15 seconds, which a soak measures.
    """
    if not is_soak():
        monkeypatch.setattr(subscription, "PING_AFTER_SECONDS", 0.2)
        monkeypatch.setattr(subscription, "DEAD_AFTER_SECONDS", 1.0)
    first = RedisServer(password=REDIS_PASSWORD, unix_socket=True)
    options = ["--unixsocket", str(first.unix_socket)]
    second = RedisServer(password=REDIS_PASSWORD, extra_options=options)
    with first, contextlib.closing(second):
        here, there = pair(apps, first, poll_seconds=NEVER_SECONDS)
        there.listen(first)
        first.pause()
        second.start()
        here.change(2)
        there.wait_until_serving(2, 15.0)
        there.wait_until_heard_by(second)
        assert_logged_once(caplog)
        wait_until(
            lambda: here.change(3) or here.waffle.reset("SIZE").announced,
            SOON_SECONDS,
            "changes are announced again",
        )


def test_a_redis_that_refuses_the_password_is_one_that_is_away(
    apps: Apps, own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    here, there = pair(apps, own_redis.url.replace(REDIS_PASSWORD, "wrong-one"))
    there.listen()
    assert not here.change(2)
    there.wait_until_serving(2)
    there.wait_until_listener("polling")
    assert_logged_once(caplog, back=0)
    with own_redis.client() as client:
        client.config_set("requirepass", "wrong-one")
    there.wait_until_listener("live")
    assert "wrong-one" not in caplog.text


def test_a_listener_that_ends_closes_its_connection(apps: Apps, own_redis: RedisServer) -> None:
    _, there = pair(apps, own_redis, poll_seconds=NEVER_SECONDS)
    there.listen(own_redis)
    assert there.state.environment is not None
    there.state.environment.stop(SOON_SECONDS)
    assert not there.still_listens()
    assert there.listener == "absent"
    own_redis.wait_for_subscribers(0)


# -- another content of the database --------------------------------------------------------------


def put_in_place(apps: Apps, backup: str, live: str = "waffle") -> None:
    """Restore a backup as SQLite does, under the processes that have the database open."""
    with (
        contextlib.closing(sqlite3.connect(apps.directory / f"{backup}.db")) as source,
        contextlib.closing(sqlite3.connect(apps.directory / f"{live}.db")) as target,
    ):
        source.backup(target)


def wait_for_polls(host: Host) -> list[str]:
    """Return what a host has sent to SQL, once it has polled several times."""
    with recording(host.state.store.database.engine) as statements:
        wait_until(lambda: len(statements) >= 4, SOON_SECONDS, "it has polled several times")
    return statements


def test_a_restored_backup_is_not_followed_and_is_logged_once(
    apps: Apps, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither by polls nor by a read; a change skips past what hosts have seen."""
    here, there = pair(apps)
    there.listen()
    here.change(2)
    put_in_place(apps, "waffle", "backup")
    here.change(3)
    here.change(4)
    there.wait_until_serving(4)
    before = there.position
    put_in_place(apps, "backup")
    restored = here.state.store.peek()
    statements = wait_for_polls(there)
    assert not any("waffle_setting" in s for s in statements), "no reason to read the rows"
    there.state.reconciler.reconcile()
    assert there.state.reconciler.behind == restored
    assert (restored.lineage, restored.revision) == (before.lineage, 1)
    assert there.state.host.position == before
    assert (there.size, there.position) == (4, before)
    assert len(messages(caplog.records, "flask waffle resync")) == 1
    here.change(5)
    there.wait_until_serving(5)
    assert there.position.lineage == before.lineage
    assert there.position.revision == before.revision + 1
    wait_until(lambda: there.state.reconciler.behind is None, SOON_SECONDS, "all is well again")


def test_another_database_is_followed_whatever_its_revision(
    apps: Apps, caplog: pytest.LogCaptureFixture
) -> None:
    here, there = pair(apps)
    there.listen()
    here.change(2)
    here.change(3)
    there.wait_until_serving(3)
    before = there.position
    other = Apps(apps.directory / "other", f"sqlite:///{apps.directory}/other.db")
    Host(other, listens=False, redis=NO_REDIS).change(99)
    other.close()
    put_in_place(apps, "other")
    there.wait_until_serving(99)
    assert there.position.lineage != before.lineage
    assert there.position.revision == 1 < before.revision
    assert messages(caplog.records, "flask waffle resync") == []


def test_a_database_that_is_emptied_under_a_running_application_changes_nothing(
    apps: Apps, caplog: pytest.LogCaptureFixture
) -> None:
    """As `pg_restore --clean` does: neither while it is empty, nor by an older backup."""
    here, there = pair(apps)
    there.listen()
    here.change(2)
    put_in_place(apps, "waffle", "backup")
    here.change(3)
    there.wait_until_serving(3)
    before = there.position
    put_in_place(apps, "empty")
    wait_for_polls(there)
    there.waffle.refresh()
    assert there.state.reconciler.behind == NOWHERE
    assert (there.size, there.position) == (3, before)
    assert len(messages(caplog.records, "holds no settings any more")) == 1
    status = collect(there.state)
    assert any("holds no settings" in problem for problem in status.problems)
    assert (status.fleet.position, status.fleet.applied, status.fleet.total) == (before, 1, 1)
    assert [m.host for m in status.fleet.missing] == ["(any other)"], "as Redis is away"
    put_in_place(apps, "backup")
    restored = here.state.store.peek()
    wait_until(lambda: there.state.reconciler.behind == restored, SOON_SECONDS, "it has polled")
    assert (there.size, there.position) == (3, before)
    here.change(4)
    there.wait_until_serving(4)
    assert there.position.lineage == before.lineage
    assert there.position.revision == before.revision + 1


def test_a_database_that_was_emptied_is_written_to_as_a_new_one(
    apps: Apps, caplog: pytest.LogCaptureFixture
) -> None:
    here, there = pair(apps)
    there.listen()
    here.change(3)
    there.wait_until_serving(3)
    before = there.position
    put_in_place(apps, "empty")
    here.change(9)
    there.wait_until_serving(9)
    assert there.position.lineage != before.lineage
    assert there.position.revision == 1
    assert len(messages(caplog.records, "begins a new history")) == 1


def test_a_write_that_changes_nothing_makes_no_revision(apps: Apps) -> None:
    """Neither on a database that was never written to, nor on one that was emptied."""
    here, there = pair(apps)
    there.listen()
    first = here.state.store.peek()
    assert first.exists
    here.change(1)
    assert here.state.host.position == here.state.store.peek() == first
    here.change(3)
    there.wait_until_serving(3)
    before = there.position
    put_in_place(apps, "empty")
    here.change(1)
    here.waffle.reset("SIZE")
    assert here.state.host.position == before
    assert here.waffle.settings.SIZE == 3
    there.waffle.refresh()
    assert (there.size, there.position) == (3, before)


#: An application on another host; prints what it serves, and runs until its input ends.
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


def test_an_application_that_starts_on_an_emptied_database_serves_the_defaults(apps: Apps) -> None:
    """Unless another process of its host still runs, which it must agree with."""
    with application(apps.directory, 2) as first:
        put_in_place(apps, "empty")
        with application(apps.directory) as second:
            assert (first, second) == (2, 2)
    with application(apps.directory) as third:
        assert third == 1


def test_a_process_that_is_not_listed_follows_its_host_to_an_emptied_database(apps: Apps) -> None:
    """One that has not served a request yet is not listed; it must not serve something else."""
    confs = {"SIZE": {"default": 1}}
    app, first = apps(WAFFLE_CONFS=confs)
    state = state_of(app)
    state.writer.update({"SIZE": 7})
    assert state.host.slots.living() == []
    put_in_place(apps, "empty")
    _, second = apps(WAFFLE_CONFS=confs)
    assert (first.settings.SIZE, second.settings.SIZE) == (1, 1)
    assert collect(state).problems == ()
