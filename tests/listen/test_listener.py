"""The listener on a Redis that works, whatever is said on it."""

from __future__ import annotations

import contextlib
import json
import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import RedisServer, wait_until
from tests.support.listening_host import (
    NEVER_SECONDS,
    ListeningHost,
    Writer,
    config_of,
    listening,
    writing,
)

#: Far more than a flood may cost, and far less than one read for each message.
HANDFUL = 10

#: Publishes what it is given as fast as it can, until it is ended.
FLOODER = """
import sys
import redis
client = redis.Redis.from_url(sys.argv[1])
while True:
    pipeline = client.pipeline(transaction=False)
    for _ in range(500):
        pipeline.publish("waffleconf", sys.argv[2])
    pipeline.execute()
"""


#: Turns, and while it waits has its snapshot file cut short.
CUT_SHORT = """
import os, pathlib, sys, threading
from tests.support.listening_host import config_of
from uwsgi_waffle.listen.listener import Listener
from uwsgi_waffle.listen.reconcile import Reconciler
from uwsgi_waffle.host import HostSnapshot
from uwsgi_waffle.sql.store import Store

class Cutter(threading.Event):
    def wait(self, timeout=None):
        os.truncate(sys.argv[2], 0)
        return super().wait(0)

store = Store(config_of(sys.argv[1]))
host = HostSnapshot(pathlib.Path(sys.argv[2]))
listener = Listener(
    namespace="default", bus=None, host=host, reconciler=Reconciler(store, host, 0.1),
    poll_seconds=0.0, moved=lambda: None,
)
for _ in range(3):
    listener.turn(0.1, Cutter())
    assert host.position[1] == 1, "it has read SQL again"
"""


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    """Give a Redis for all tests here, one after another."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def writer(redis_server: RedisServer, tmp_path: Path) -> Iterator[Writer]:
    """Give another host that writes."""
    with writing(tmp_path, redis_server.url) as made:
        yield made


@pytest.fixture
def here(redis_server: RedisServer, tmp_path: Path, writer: Writer) -> Iterator[ListeningHost]:
    """Give a host that listens and has taken the first revision; it polls never again."""
    config = config_of(writer.config.database_uri, redis_server.url, poll_seconds=NEVER_SECONDS)
    with listening(config, tmp_path) as host:
        host.wait_until_live()
        wait_until(host.host.position, 10, "the first revision is taken")
        host.statements.seen.clear()
        yield host


def say(server: RedisServer, *messages: str | bytes) -> None:
    """Publish messages, and return when Redis has handed them on."""
    with server.client() as client:
        pipeline = client.pipeline(transaction=False)
        for message in messages:
            pipeline.publish("waffleconf", message)
        pipeline.execute()


@contextlib.contextmanager
def flood(server: RedisServer, said: str) -> Iterator[None]:
    """Have another process publish a message without a pause."""
    flooder = subprocess.Popen([sys.executable, "-c", FLOODER, server.url, said])
    try:
        yield
        assert flooder.poll() is None
    finally:
        flooder.kill()
        flooder.wait()


def message(lineage: str, revision: object, namespace: object = "default") -> str:
    """Return a message as we send them."""
    return json.dumps({"namespace": namespace, "lineage": lineage, "revision": revision})


def test_a_message_costs_one_statement_and_moves_the_host(
    here: ListeningHost, writer: Writer
) -> None:
    for _ in range(10):
        record = writer.write_and_tell()
        here.wait_until_at(record)
        wait_until(
            lambda: here.moves[-1] == (record.lineage, record.revision),  # noqa: B023  used at once
            10,
            "the workers are woken",
        )
    here.wait_for_turns()
    assert len(here.statements.seen) == 10


def test_a_change_that_this_host_has_already_costs_no_statement(
    here: ListeningHost, writer: Writer
) -> None:
    """Such as one of its own: the snapshot is written before the message goes out."""
    record = writer.write()
    here.host.publish(record)
    writer.bus.publish(writer.news(record))
    writer.bus.publish(writer.news(record))
    here.wait_until_at(record)
    here.wait_for_turns()
    assert here.statements.seen == []
    assert here.moves[-1] == (record.lineage, record.revision), "workers are woken all the same"


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\xff\xfe\x00",
        b"x" * 1_000_000,
        b"[" * 100_000,
        b"null",
        b"[]",
        b'"text"',
        b"{}",
        message("aa", "7").encode(),
        message("aa", revision=True).encode(),
        message("aa", 1.5).encode(),
        message("aa", 7, namespace=None).encode(),
        b'{"namespace": "default", "lineage": "aa", "revision": ' + b"9" * 5000 + b"}",
        message("another", 10**30).encode(),
        message("", 0).encode(),
    ],
    ids=lambda garbage: f"{garbage[:12]!r}-{len(garbage)}",
)
def test_garbage_counts_as_a_look_and_harms_nothing(
    garbage: bytes,
    here: ListeningHost,
    writer: Writer,
    redis_server: RedisServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whoever can publish can at worst make us look."""
    before = here.host.position
    say(redis_server, garbage)
    wait_until(lambda: here.statements.reads, 10, "it has looked")
    here.wait_for_turns()
    assert here.statements.reads == 1
    assert here.host.position == before
    here.wait_until_at(writer.write_and_tell())
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_messages_of_another_namespace_cost_nothing(
    here: ListeningHost, redis_server: RedisServer
) -> None:
    say(redis_server, *[message("aa", n, namespace="other") for n in range(10_000)])
    here.wait_for_turns(20)
    assert here.statements.seen == []


@pytest.mark.parametrize("kind", ["garbage", "another lineage", "huge revision", "old revision"])
def test_ten_thousand_messages_cost_a_handful_of_statements(
    kind: str, here: ListeningHost, writer: Writer, redis_server: RedisServer
) -> None:
    """And none of them makes it serve anything, or go back."""
    before = here.host.position
    said = {
        "garbage": "not ours",
        "another lineage": message("00000000000000bb", 1),
        "huge revision": message(before[0], 2**62),
        "old revision": message(before[0], before[1]),
    }[kind]
    started = time.monotonic()
    say(redis_server, *[said] * 10_000)
    writer.write()  # told by nobody
    if kind != "old revision":
        wait_until(lambda: here.host.position != before, 10, "the flood made it look")
    here.wait_for_turns(20)
    # Looks that find nothing come ever later: so the longer, the more, but not by much.
    assert len(here.statements.seen) <= HANDFUL + (time.monotonic() - started) / 2
    assert here.host.position[0] == before[0]
    assert here.host.position[1] == before[1] + (kind != "old revision")


def test_each_revision_announced_in_a_burst_is_not_read_by_itself(
    here: ListeningHost, writer: Writer, redis_server: RedisServer
) -> None:
    """What was overtaken by the time it is our turn to read is not read."""
    records = [writer.write() for _ in range(200)]
    say(redis_server, *[writer.news(record).encode() for record in records])
    here.wait_until_at(records[-1])
    here.wait_for_turns()
    assert len(here.statements.seen) <= HANDFUL


@pytest.mark.parametrize("forged", ["not ours", message("00000000000000bb", 2**62)])
def test_a_change_during_a_hostile_flood_arrives_within_one_poll(
    forged: str, redis_server: RedisServer, writer: Writer, tmp_path: Path
) -> None:
    poll_seconds = 2.0
    config = config_of(writer.config.database_uri, redis_server.url, poll_seconds=poll_seconds)
    with listening(config, tmp_path) as here:
        here.wait_until_live()
        with flood(redis_server, forged):
            wait_until(lambda: here.statements.reads >= 3, 30, "the flood has come")
            reads = here.statements.reads
            started = time.monotonic()
            for _ in range(3):
                record = writer.write_and_tell()
                here.wait_until_at(record, poll_seconds + 3)
            seconds = time.monotonic() - started
            # One poll of two statements each poll_seconds, and the looks between.
            assert here.statements.reads - reads <= HANDFUL + 2 * seconds


def test_a_flood_does_not_keep_it_from_polling(
    redis_server: RedisServer, writer: Writer, tmp_path: Path
) -> None:
    """Messages of another namespace give no reason to look, and yet nothing is missed."""
    config = config_of(writer.config.database_uri, redis_server.url, poll_seconds=0.5)
    with listening(config, tmp_path) as here:
        here.wait_until_live()
        with flood(redis_server, message("aa", 1, namespace="other")), redis_server.client() as one:
            heard = one.pubsub()
            heard.subscribe("waffleconf")
            wait_until(lambda: heard.get_message(ignore_subscribe_messages=True), 30, "it floods")
            for _ in range(3):
                here.wait_until_at(writer.write(), 5)
            heard.close()


def test_several_listeners_of_a_host_read_once_for_a_change(
    here: ListeningHost, writer: Writer, redis_server: RedisServer, tmp_path: Path
) -> None:
    """Where each process listens for itself: one of them reads, the others see that it has."""
    config = config_of(writer.config.database_uri, redis_server.url, poll_seconds=NEVER_SECONDS)
    with contextlib.ExitStack() as stack:
        others = [stack.enter_context(listening(config, tmp_path)) for _ in range(3)]
        for other in others:
            other.wait_until_live()
        every = [here, *others]
        for host in every:
            host.wait_for_turns()
            host.statements.seen.clear()
        for count in range(1, 6):
            record = writer.write_and_tell()
            for host in every:
                host.wait_until_at(record)
                host.wait_for_turns()
            assert sum(len(host.statements.seen) for host in every) == count


def test_of_several_changes_that_wait_for_a_look_the_last_one_is_seen(
    here: ListeningHost, writer: Writer, redis_server: RedisServer
) -> None:
    """Also where this host itself has by then overtaken the first of them."""
    lineage, _ = here.host.position
    for count in range(1, 5):
        say(redis_server, message(lineage, 2**62))
        wait_until(lambda: here.statements.reads == count, 10, "a look in vain")  # noqa: B023
    writer.write_and_tell()
    here.wait_for_turns()
    here.host.publish(writer.write())
    last = writer.write_and_tell()
    assert here.host.position == (lineage, last.revision - 1), "the look still waits"
    here.wait_until_at(last)


def test_the_workers_are_woken_whoever_of_the_host_has_moved_it(
    here: ListeningHost, writer: Writer
) -> None:
    """A process that cannot raise our signal, such as the command line."""
    record = writer.write()
    here.host.publish(record)
    position = record.lineage, record.revision
    wait_until(lambda: here.moves[-1] == position, 10, "it is noticed")
    assert here.statements.seen == []


def test_a_wake_that_fails_is_logged_and_tried_again(
    here: ListeningHost, writer: Writer, caplog: pytest.LogCaptureFixture
) -> None:
    failures = [ZeroDivisionError("first"), ZeroDivisionError("second")]

    def wake() -> None:
        if failures:
            raise failures.pop(0)

    here.wake = wake
    record = writer.write_and_tell()
    position = record.lineage, record.revision
    wait_until(lambda: here.moves[-1] == position, 10, "the workers are woken in the end")
    assert caplog.text.count("a turn of the listener failed; it goes on") == 2


def test_a_snapshot_file_that_goes_missing_is_made_again(
    here: ListeningHost, writer: Writer
) -> None:
    """By the next turn; SQL fills it at the next look."""
    here.host.path.unlink()
    wait_until(here.host.path.exists, 10, "there is a file again")
    here.wait_until_at(writer.write_and_tell())
    assert here.host.is_shared


def test_a_snapshot_file_cut_short_while_the_listener_waits_does_not_kill_it(
    writer: Writer, tmp_path: Path
) -> None:
    """It spends its life waiting, so that is when such things happen."""
    arguments = writer.config.database_uri, str(tmp_path / "snapshot")
    done = subprocess.run(
        [sys.executable, "-c", CUT_SHORT, *arguments], check=False, capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_a_listener_shows_that_it_lives(here: ListeningHost) -> None:
    here.wait_for_turns()
    age = here.host.heartbeat_age_seconds()
    assert age is not None
    assert age < 10
