"""The listener on a Redis that works: what it reads, whom it wakes, what shows that it lives."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from tests.conftest import Apps
from tests.listen.conftest import publish, signed
from tests.support import RedisServer, wait_until
from tests.support.listening import Host, messages
from tests.support.statements import Statements, recording
from tests.support.waiting import SOON_SECONDS
from uwsgi_waffle.host.election import Election
from uwsgi_waffle.listen import listener
from uwsgi_waffle.values.snapshot import Record

#: Listens, and while it waits has its snapshot file cut short.
CUT_SHORT = """
import os, sys
from flask import Flask
from uwsgi_waffle import WaffleConf

class Cutter:
    turns = 0
    def is_set(self):
        return self.turns >= 3
    def wait(self, timeout=None):
        os.truncate(sys.argv[2], 0)
    def turned(self):
        self.turns += 1
        assert state.host.position.revision == 1, "it has read SQL again"

app = Flask("cut")
app.config.update(
    WAFFLE_DATABASE_URI=sys.argv[1], WAFFLE_SNAPSHOT_PATH=sys.argv[2], WAFFLE_MULTIPROC=True,
    WAFFLE_LISTENER="none", WAFFLE_REDIS_URL="unix:///no/such.sock",
    WAFFLE_CONFS={"A": {"default": 0}},
)
WaffleConf(app)
state = app.extensions["waffleconf"]
cutter = Cutter()
state.loop.run(lambda: None, cutter, cutter.turned)
assert cutter.turns == 3
"""


def test_an_announcement_costs_one_statement_and_moves_the_host(
    here: Host, writer: Host, statements: Statements
) -> None:
    for _ in range(10):
        record = writer.commit_and_announce()
        here.wait_until_at(record)
        wait_until(
            lambda: here.moves[-1] == record.position,  # noqa: B023  used at once
            SOON_SECONDS,
            "the workers are woken",
        )
    here.wait_for_turns()
    assert len(statements) == 10


def test_an_announcement_of_what_the_host_has_costs_no_statement(
    here: Host, writer: Host, statements: Statements
) -> None:
    """Such as one of its own: the snapshot is published before the message goes out."""
    record = writer.commit()
    here.state.host.publish(record)
    assert writer.announce(record)
    assert writer.announce(record)
    here.wait_for_turns()
    assert statements == []
    assert here.moves[-1] == record.position, "workers are woken all the same"


def test_several_listeners_of_a_host_read_once_for_a_change(
    apps: Apps,
    here: Host,
    writer: Host,
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Such as those of several uWSGI instances: one reads, the others see that it has."""
    monkeypatch.setattr(Election, "win", lambda _: True)
    monkeypatch.setattr(Election, "is_won", lambda _: True)
    every = [here, *(Host(apps, "here", redis_server) for _ in range(3))]
    for host in every[1:]:
        host.listen()
    redis_server.wait_for_subscribers(4)
    with contextlib.ExitStack() as stack:
        for host in every:
            host.wait_for_turns()
        engines = [host.state.store.database.engine for host in every]
        seen = [stack.enter_context(recording(engine)) for engine in engines]
        for count in range(1, 4):
            record = writer.commit_and_announce()
            for host in every:
                host.wait_until_at(record)
                host.wait_for_turns()
            assert sum(map(len, seen)) == count


def test_of_several_changes_that_wait_to_be_read_the_last_one_is_seen(
    apps: Apps, redis_server: RedisServer, writer: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where this host itself has overtaken the first of them by then."""
    monkeypatch.setattr(listener, "STALE_SECONDS", 4.0)
    here = Host(apps, "here", redis_server)
    here.listen(redis_server)
    with recording(here.state.store.database.engine) as statements:
        not_committed = replace(here.state.host.position, revision=2**62)
        publish(redis_server, signed(here, not_committed))
        wait_until(lambda: statements.reads == 1, SOON_SECONDS, "it is read in vain")
        writer.commit_and_announce()
        here.wait_for_turns()
        before_last = writer.commit()
        here.state.host.publish(before_last)
        last = writer.commit_and_announce()
        assert statements.reads == 1, "the next read still waits"
        here.wait_until_at(last)
        assert statements.reads == 2


def test_the_workers_are_woken_whichever_process_of_the_host_moved_it(
    here: Host, writer: Host, statements: Statements
) -> None:
    """Such as the command line, which cannot raise uWSGI's signal."""
    record = writer.commit()
    here.state.host.publish(record)
    wait_until(lambda: here.moves[-1] == record.position, SOON_SECONDS, "it is noticed")
    assert statements == []


def test_a_wake_that_fails_is_logged_and_tried_again(
    here: Host, writer: Host, caplog: pytest.LogCaptureFixture
) -> None:
    failures = [ZeroDivisionError("first"), ZeroDivisionError("second")]

    def fail() -> None:
        if failures:
            raise failures.pop(0)

    here.on_move = fail
    record = writer.commit_and_announce()
    wait_until(lambda: here.moves[-1] == record.position, SOON_SECONDS, "the workers are woken")
    assert caplog.text.count("the listener hit an unexpected error and will retry") == 2


def test_a_snapshot_file_that_goes_missing_is_made_again(here: Host, writer: Host) -> None:
    """In the next turn; SQL fills it at the next read."""
    here.state.host.path.unlink()
    wait_until(here.state.host.path.exists, SOON_SECONDS, "there is a file again")
    here.wait_until_at(writer.commit_and_announce())
    assert here.state.host.is_shared


def test_a_snapshot_file_cut_short_while_the_listener_waits_does_not_kill_it(
    apps: Apps, writer: Host
) -> None:
    """It spends its life waiting, so that is when such things happen."""
    assert writer.state.store.peek().revision == 1
    arguments = apps.database_uri, str(apps.directory / "cut" / "snapshot")
    done = subprocess.run(
        [sys.executable, "-c", CUT_SHORT, *arguments], check=False, capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_a_listener_shows_that_it_lives_once_it_has_compared_with_sql(
    apps: Apps, redis_server: RedisServer
) -> None:
    """One that is killed before is no reason for requests not to ask SQL themselves."""
    host = Host(apps, "here", redis_server)
    ages: list[float | None] = []
    poll = host.state.reconciler.poll

    def noted(**options: bool) -> Record | None:
        ages.append(host.state.host.heartbeat_age_seconds())
        return poll(**options)

    host.state.reconciler.poll = noted  # type: ignore[method-assign]
    host.listen(redis_server)
    host.wait_for_turns()
    assert ages == [None]
    age = host.state.host.heartbeat_age_seconds()
    assert age is not None
    assert age < SOON_SECONDS


@pytest.mark.usefixtures("quick_turns")
def test_hosts_that_started_before_the_tables_were_made_know_each_other_after_it(
    apps: Apps, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A migration may come after the first start. The log names the command until then."""
    config: dict[str, Any] = {"auto_create": False, "poll_seconds": 0.1}
    here, there = (Host(apps, name, redis_server, **config) for name in ("here", "there"))
    for host in (here, there):
        host.listen()
        host.wait_for_turns(10)
        assert not host.position.exists
    missing = messages(caplog.records, "flask waffle init-db")
    assert len(missing) == 2, "each of them logs it once"
    here.state.store.database.create_tables()
    for host in (here, there):
        wait_until(lambda: host.position.exists, SOON_SECONDS, "the namespace is there")  # noqa: B023

    def is_known() -> bool:
        return len(here.waffle.status().hosts) == 2

    wait_until(is_known, SOON_SECONDS, "both report")
    done = here.waffle.update({"SIZE": 2})
    assert here.waffle.wait(done.revision, SOON_SECONDS).applied == 2
