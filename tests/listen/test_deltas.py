"""What a commit changed comes with its announcement, and saves the other hosts a read of SQL."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from cryptography.fernet import Fernet

from tests.conftest import Apps
from tests.support import RedisServer, wait_until
from tests.support.listening import CONFS, Host
from tests.support.statements import Statements
from tests.support.waiting import SOON_SECONDS
from uwsgi_waffle.values.snapshot import Delta

#: Enough that what changed has no room in a message.
LARGE = {f"LARGE_{number}": {"default": ""} for number in range(20)}
ALL = {**CONFS, **LARGE, "TOKEN": {"default": "", "secret": True}}
MARK = "a value like no other"
KEYS = [Fernet.generate_key().decode()]


def pair(apps: Apps, redis_server: RedisServer, **config: Any) -> tuple[Host, Host]:
    """Return a host that writes, and one that listens."""
    writer = Host(apps, "writer", redis_server, listens=False, confs=ALL, **config)
    writer.waffle.update({"SIZE": 2})
    here = Host(apps, "here", redis_server, confs=ALL, **config)
    here.listen(redis_server)
    here.wait_until_at(writer.state.store.peek())
    here.wait_for_turns()
    return writer, here


@pytest.fixture
def statements(here: Host, statements: Statements) -> Statements:
    """Give what a host that listens sends to SQL, once it has registered."""
    here.wait_for_turns()
    statements.clear()
    return statements


def test_a_change_and_a_reset_arrive_without_a_read_of_sql(
    writer: Host, here: Host, statements: Statements
) -> None:
    for size in (5, 6, None):
        if size is None:
            writer.waffle.reset("SIZE")
        else:
            writer.waffle.update({"SIZE": size})
        here.wait_until_at(writer.state.store.peek())
        assert here.state.host.read() == (here.state.host.sequence, writer.state.store.read())
    assert not statements.reads
    assert here.size == 1


def test_a_host_that_missed_a_change_reads_sql(
    writer: Host, here: Host, statements: Statements
) -> None:
    missed = writer.commit()
    writer.state.host.publish(missed)
    writer.waffle.update({"SIZE": 9})
    here.wait_until_serving(9)
    assert statements.reads == 1


@pytest.mark.parametrize("other", ["revision", "stamp", "lineage"])
def test_it_is_not_applied_to_another_state_than_the_one_before(here: Host, other: str) -> None:
    present = here.state.host.position
    elsewhere = {"revision": present.revision + 1, "stamp": "f" * 16, "lineage": "f" * 16}
    before = replace(present, **{other: elsewhere[other]})  # type: ignore[arg-type]  # each is of its type
    assert not here.state.reconciler.apply(Delta(before, present.next(), {"SIZE": "9"}))
    assert here.state.host.position == present


@pytest.mark.usefixtures("quick_turns")
def test_a_change_too_large_for_a_message_is_announced_without_it(
    apps: Apps, redis_server: RedisServer
) -> None:
    writer, here = pair(apps, redis_server)
    with redis_server.client() as client, client.pubsub() as heard:
        heard.subscribe("waffleconf")
        writer.waffle.update(dict.fromkeys(LARGE, "x" * 1000))
        here.wait_until_at(writer.state.store.peek())
        assert here.state.host.read() == (here.state.host.sequence, writer.state.store.read())
        assert "xxx" not in next_message(heard)


@pytest.mark.usefixtures("quick_turns")
@pytest.mark.parametrize("keys", [None, KEYS])
def test_a_secret_travels_only_if_it_is_encrypted(
    apps: Apps, redis_server: RedisServer, keys: Any
) -> None:
    writer, here = pair(apps, redis_server, encryption_keys=keys)
    with redis_server.client() as client, client.pubsub() as heard:
        heard.subscribe("waffleconf")
        writer.waffle.update({"TOKEN": MARK, "SIZE": 7})
        here.wait_until_serving(7)
        message = next_message(heard)
        assert MARK not in message
        assert ("fernet:" in message) == (keys is not None)
    assert here.app.config["TOKEN"] == MARK


def next_message(heard: Any) -> str:
    """Return the next message of a subscription."""

    def receive() -> str:
        message = heard.get_message(ignore_subscribe_messages=True, timeout=0.1)
        return "" if message is None else str(message["data"])

    return wait_until(receive, SOON_SECONDS, "a message")
