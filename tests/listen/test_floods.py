"""A listener that is sent messages for others: they cost it next to nothing."""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.bus.messages import IGNORED
from tests.conftest import Apps
from tests.listen.conftest import forged, publish, signed
from tests.support import RedisServer, wait_until
from tests.support.listening import Host
from tests.support.statements import Statements
from tests.support.waiting import SOON_SECONDS

#: Far more than a flood may cost, and far less than one read for each message.
HANDFUL = 10

#: Publishes a message as fast as it can, until it is ended.
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


@contextlib.contextmanager
def flood(server: RedisServer, message: str) -> Iterator[None]:
    """Have another process publish a message without a pause."""
    flooder = subprocess.Popen([sys.executable, "-c", FLOODER, server.url, message])
    try:
        with server.client() as client, client.pubsub(ignore_subscribe_messages=True) as heard:
            heard.subscribe("waffleconf")
            wait_until(lambda: heard.get_message(timeout=0.1), SOON_SECONDS, "it floods")
        yield
        assert flooder.poll() is None
    finally:
        flooder.kill()
        flooder.wait()


def test_what_is_malformed_or_forged_costs_nothing_and_is_counted(
    here: Host,
    writer: Host,
    statements: Statements,
    redis_server: RedisServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    before, counted = here.state.host.position, here.state.host.ignored_count
    publish(redis_server, *IGNORED.values())
    wait_until(
        lambda: here.state.host.ignored_count == counted + len(IGNORED), SOON_SECONDS, "all counted"
    )
    here.wait_for_turns()
    assert statements == []
    assert here.state.host.position == before
    here.wait_until_at(writer.commit_and_announce())
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize(
    "kind", ["garbage", "forged", "another lineage", "another namespace", "old", "not committed"]
)
def test_ten_thousand_messages_cost_a_handful_of_statements(
    kind: str, here: Host, writer: Host, statements: Statements, redis_server: RedisServer
) -> None:
    """And none of them moves the host anywhere but to SQL's present state."""
    before = here.state.host.position
    huge = replace(before, revision=2**62)
    message = {
        "garbage": "not ours",
        "forged": forged(huge),
        "another lineage": signed(here, replace(huge, lineage="00000000000000bb")),
        "another namespace": signed(here, huge, "other"),
        "old": signed(here, before),
        "not committed": signed(here, huge),
    }[kind]
    began = time.monotonic()
    publish(redis_server, *[message] * 10_000)
    last = writer.commit()  # announced by no process
    makes_it_look = kind in ("another lineage", "not committed")
    if makes_it_look:
        here.wait_until_at(last)
    here.wait_for_turns(20)
    # Reads that find nothing come ever later: so the longer, the more, but not by much.
    most = HANDFUL + (time.monotonic() - began) / 2
    assert len(statements) <= (most if makes_it_look else 0)
    assert here.state.host.position == (last.position if makes_it_look else before)


def test_of_a_burst_of_announcements_few_are_read_for(
    here: Host, writer: Host, statements: Statements, redis_server: RedisServer
) -> None:
    """What was overtaken before the listener came to it is not read."""
    records = [writer.commit() for _ in range(50)]
    publish(redis_server, *[signed(writer, record.position) for record in records])
    here.wait_until_at(records[-1])
    here.wait_for_turns()
    assert len(statements) <= HANDFUL


@pytest.mark.parametrize("kind", ["garbage", "forged"])
def test_a_change_during_a_hostile_flood_arrives_without_a_poll(
    kind: str, here: Host, writer: Host, statements: Statements, redis_server: RedisServer
) -> None:
    position = replace(here.state.host.position, revision=2**62)
    with flood(redis_server, "not ours" if kind == "garbage" else forged(position)):
        for _ in range(3):
            here.wait_until_at(writer.commit_and_announce())
    assert len(statements) <= HANDFUL


def test_a_flood_does_not_keep_it_from_polling(
    apps: Apps, redis_server: RedisServer, writer: Host
) -> None:
    """Messages of another namespace are no reason to read, and yet nothing is missed."""
    here = Host(apps, "here", redis_server, poll_seconds=0.5)
    here.listen(redis_server)
    with flood(redis_server, signed(writer, writer.state.store.peek(), "other")):
        for _ in range(3):
            here.wait_until_at(writer.commit())
