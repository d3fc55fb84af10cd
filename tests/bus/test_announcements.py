"""What an announcement holds, and which are believed."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.bus.conftest import KEY, LINEAGE, OLD_KEY, OTHER_KEY, POSITION, bus_at
from tests.bus.messages import CHANGED, DELTA, FIELDS, IGNORED, OURS, heard_by
from tests.support import RedisServer
from tests.support.waiting import SOON_SECONDS
from uwsgi_waffle.bus.announcements import MAX_MESSAGE_BYTES, Announcement
from uwsgi_waffle.bus.subscription import Heard
from uwsgi_waffle.values.position import Position
from uwsgi_waffle.values.snapshot import Delta

positions = st.builds(Position, st.text(), st.integers(0, 2**63 - 1), st.text())
rows = st.none() | st.dictionaries(st.text(), st.none() | st.text())


@given(st.text(), positions, positions, rows)
def test_an_announcement_comes_back_as_it_was(
    namespace: str, position: Position, before: Position, rows: dict[str, str | None] | None
) -> None:
    delta = None if rows is None else Delta(before, position, rows)
    sent = Announcement(namespace, position, delta)
    message = sent.encode([KEY])
    if len(message) > MAX_MESSAGE_BYTES:
        return
    for received in (message, message.encode()):
        decoded = Announcement.decode(received)
        assert decoded is not None
        found, signatures = decoded
        assert found == sent
        assert found.is_signed([KEY], signatures)
        assert not found.is_signed([OTHER_KEY], signatures)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
nearly = st.tuples(st.just("waffle"), *[anything] * 6)


@given(st.binary() | st.text() | (anything | nearly).map(json.dumps) | st.none() | st.integers())
def test_every_message_is_decoded_whole_or_not_at_all(message: object) -> None:
    decoded = Announcement.decode(message)
    if decoded is None:
        return
    found, signatures = decoded
    texts = [found.namespace, found.position.lineage, found.position.stamp, signatures]
    assert [type(text) for text in texts] == [str] * 4
    assert type(found.position.revision) is int
    assert not found.is_signed([KEY], signatures)


def test_a_message_holds_a_position_and_what_its_commit_changed() -> None:
    *fields, signature = json.loads(OURS.encode([KEY]))
    assert fields == [*FIELDS, None]
    assert re.fullmatch("[0-9a-f]{64}", signature)
    *fields, _ = json.loads(CHANGED.encode([KEY]))
    assert fields == [*FIELDS, [LINEAGE, 6, "0" * 16, {"SIZE": "2", "NAME": None}]]


def test_what_a_commit_changed_is_left_out_of_a_message_that_it_would_make_too_large() -> None:
    delta = replace(DELTA, rows={"SIZE": "9" * MAX_MESSAGE_BYTES})
    assert replace(CHANGED, delta=delta).encode([KEY]) == OURS.encode([KEY])


@pytest.mark.parametrize("message", IGNORED.values(), ids=IGNORED)
def test_what_is_malformed_or_not_signed_by_our_key_is_ignored_and_counted(
    redis_server: RedisServer, message: str | bytes
) -> None:
    bus = bus_at(redis_server.url)
    with bus.subscribe() as subscription, redis_server.client() as client:
        client.publish(bus.channel, message)
        assert heard_by(subscription) == Heard([], ignored=1)
        assert bus.publish(POSITION)
        assert heard_by(subscription) == Heard([OURS])


def test_messages_of_another_namespace_are_not_counted(redis_server: RedisServer) -> None:
    other = bus_at(redis_server.url, namespace="other", signing=[OTHER_KEY])
    bus = bus_at(redis_server.url)
    with bus.subscribe() as subscription:
        assert other.publish(POSITION)
        assert bus.publish(POSITION)
        assert heard_by(subscription) == Heard([OURS])


def test_while_keys_are_rotated_hosts_with_either_key_hear_each_other(
    redis_server: RedisServer,
) -> None:
    before = bus_at(redis_server.url, signing=[OLD_KEY])
    during = bus_at(redis_server.url, signing=[KEY, OLD_KEY])
    after = bus_at(redis_server.url, signing=[KEY])
    for sender, receiver, is_heard in (
        (before, during, True),
        (during, before, True),
        (during, after, True),
        (after, during, True),
        (before, after, False),
        (after, before, False),
    ):
        with receiver.subscribe() as subscription:
            assert sender.publish(POSITION)
            expected = Heard([OURS]) if is_heard else Heard([], ignored=1)
            assert heard_by(subscription) == expected


def test_without_a_key_nothing_is_announced_or_believed(redis_server: RedisServer) -> None:
    keyless = bus_at(redis_server.url, signing=())
    with keyless.subscribe() as subscription:
        assert not keyless.publish(POSITION)
        assert bus_at(redis_server.url).publish(POSITION)
        assert heard_by(subscription) == Heard([], ignored=1)


def test_an_announcement_without_a_subscriber_counts_as_not_announced(
    redis_server: RedisServer,
) -> None:
    bus = bus_at(redis_server.url)
    assert not bus.publish(POSITION)
    with bus.subscribe():
        assert bus.publish(POSITION)


def test_a_flood_is_received_in_portions(redis_server: RedisServer) -> None:
    """So it does not keep a listener from its other work; none is lost, or out of order."""
    bus = bus_at(redis_server.url)
    sent = [Announcement("default", Position(LINEAGE, revision)) for revision in range(1500)]
    with bus.subscribe() as subscription, redis_server.client() as client:
        pipeline = client.pipeline(transaction=False)
        for announcement in sent:
            pipeline.publish(bus.channel, announcement.encode([KEY]))
        pipeline.execute()
        assert subscription.receive(SOON_SECONDS) == Heard(sent[:1000])
        assert subscription.receive(SOON_SECONDS) == Heard(sent[1000:])
