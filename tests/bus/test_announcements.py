"""What an announcement holds, which are believed, and how Redis is reached."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.bus.conftest import (
    KEY,
    LINEAGE,
    OLD_KEY,
    OTHER_KEY,
    OTHER_LINEAGE,
    POSITION,
    bus_at,
)
from tests.conftest import REDIS_PASSWORD
from tests.support import RedisServer, wait_until
from tests.support.waiting import SOON_SECONDS
from uwsgi_waffle.bus import announcements
from uwsgi_waffle.bus.announcements import (
    MAX_MESSAGE_BYTES,
    Announcement,
    Bus,
    Heard,
    Subscription,
)
from uwsgi_waffle.bus.client import BusUnavailable
from uwsgi_waffle.values.position import Position
from uwsgi_waffle.values.snapshot import Delta

OURS = Announcement("default", POSITION)
FIELDS = ["waffle", "default", LINEAGE, 7, "0123456789abcdef"]
DELTA = Delta(Position(LINEAGE, 6, "0" * 16), POSITION, {"SIZE": "2", "NAME": None})
CHANGED = Announcement("default", POSITION, DELTA)
NOTHING = Heard([])


def heard_by(subscription: Subscription) -> Heard:
    """Return what is heard next."""

    def receive() -> Heard | None:
        heard = subscription.receive(0.1)
        return None if heard == NOTHING else heard

    heard = wait_until(receive, SOON_SECONDS, "a message is heard")
    assert heard is not None
    return heard


def check_round_trip(bus: Bus) -> None:
    """Announce a position, and hear it."""
    with bus.subscribe() as subscription:
        assert bus.publish(POSITION)
        assert heard_by(subscription) == Heard([OURS])
        assert subscription.receive(0) == NOTHING


# -- what a message holds -----------------------------------------------------------------------


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


# -- which messages are believed ----------------------------------------------------------------


def resigned(announcement: Announcement, signed: Announcement, key: str = KEY) -> str:
    """Return an announcement with the signature of another one."""
    *_, signature = json.loads(signed.encode([key]))
    *fields, _ = json.loads(announcement.encode([key]))
    return json.dumps([*fields, signature])


LATER = Announcement("default", Position(LINEAGE, 8, "0" * 15 + "1"))
ELSEWHERE = Announcement("default", Position(OTHER_LINEAGE, 7, "0" * 15 + "1"))

IGNORED: dict[str, str | bytes] = {
    "empty": b"",
    "not UTF-8": b"\xff\xfe\x00",
    "oversized": b"x" * 1_000_000,
    "oversized and signed": Announcement("default", Position("a" * 4000, 1, "")).encode([KEY]),
    "deep": b"[" * 100_000,
    "deep and short": b"[" * 1_900,
    "null": b"null",
    "no fields": b"[]",
    "of release 0.1.0": json.dumps({"namespace": "default", "lineage": LINEAGE, "revision": 7}),
    "revision is a text": json.dumps([*FIELDS[:3], "7", "", None, ""]),
    "revision is a boolean": json.dumps([*FIELDS[:3], True, "", None, ""]),
    "revision is a fraction": json.dumps([*FIELDS[:3], 7.5, "", None, ""]),
    "revision is not finite": '["waffle", "default", "aa", Infinity, "", null, ""]',
    "revision is negative": json.dumps([*FIELDS[:3], -1, "", None, ""]),
    "revision is huge": json.dumps([*FIELDS[:3], 2**63, "", None, ""]),
    "revision has 5000 digits": b'["waffle", "default", "aa", ' + b"9" * 5000 + b', "", null, ""]',
    "half of a surrogate pair": '["waffle", "default", "\\ud800", 7, "", null, "\\ud800"]',
    "another kind": json.dumps(["syrup", *FIELDS[1:], None, ""]),
    "unsigned": json.dumps([*FIELDS, None, ""]),
    "signed with another key": OURS.encode([OTHER_KEY]),
    "signature of another position": resigned(LATER, OURS),
    "changes of another state": resigned(OURS, CHANGED),
    "other changes": resigned(replace(CHANGED, delta=replace(DELTA, rows={"SIZE": "3"})), CHANGED),
    "changes are no texts": json.dumps([*FIELDS, [LINEAGE, 6, "", {"SIZE": 2}], ""]),
    "signature cut short": OURS.encode([KEY])[:-3] + '"]',
    "signature is not ASCII": json.dumps([*FIELDS, None, "ä" * 64]),
    "many signatures": json.dumps([*FIELDS, None, "," * 1000]),
    "of another database": ELSEWHERE.encode([OTHER_KEY]),
    "our lineage, by another database": resigned(OURS, ELSEWHERE, OTHER_KEY),
}


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


# -- how Redis is reached -----------------------------------------------------------------------


def test_host_and_port_reach_redis(redis_server: RedisServer) -> None:
    check_round_trip(bus_at(None, redis_host="127.0.0.1", redis_port=redis_server.port))


@pytest.mark.parametrize("decode_responses", [False, True])
def test_a_ready_client_wins_over_the_address(
    redis_server: RedisServer, *, decode_responses: bool
) -> None:
    with redis.Redis(port=redis_server.port, decode_responses=decode_responses) as ready:
        check_round_trip(bus_at("redis://127.0.0.1:1/0", ready))


@pytest.mark.skipif(redis.VERSION < (6,), reason="redis-py 5 raises, and does not reconnect itself")
def test_a_process_that_stood_still_does_not_take_the_server_for_dead(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was stopped, or the machine was, for longer than a server may be silent."""
    monkeypatch.setattr(announcements, "PING_AFTER_SECONDS", 0.0)
    monkeypatch.setattr(announcements, "DEAD_AFTER_SECONDS", 0.1)
    bus = bus_at(redis_server.url)
    with bus.subscribe() as subscription:
        for _ in range(2):
            time.sleep(0.2)
            assert not subscription.receive(SOON_SECONDS).reconnected
        assert bus.publish(POSITION)
        wait_until(
            lambda: subscription.receive(SOON_SECONDS).announcements, SOON_SECONDS, "it is heard"
        )


def test_that_a_ready_client_reconnected_by_itself_is_noted(redis_server: RedisServer) -> None:
    """redis-py subscribes again without raising; messages in between are lost."""
    # By default it does so of late only.
    again: dict[str, Any] = {
        "retry": Retry(NoBackoff(), 1),
        "retry_on_error": [redis.ConnectionError],
    }
    with redis.Redis(port=redis_server.port, **again) as ready:
        bus = bus_at(None, ready)
        with bus.subscribe() as subscription:
            ready.client_kill_filter(_type="pubsub")
            assert heard_by(subscription) == Heard([], reconnected=True)


# -- when it cannot be reached ------------------------------------------------------------------


@contextmanager
def hanging_up() -> Iterator[tuple[int, list[object]]]:
    """Give the port of a server that ends each connection at once, and the connections so far."""
    calls: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:

        def answer() -> None:
            with contextlib.suppress(OSError):  # closed at the end
                while True:
                    connection, address = server.accept()
                    calls.append(address)
                    connection.close()

        pool.submit(answer)
        try:
            yield server.getsockname()[1], calls
        finally:
            server.shutdown(socket.SHUT_RDWR)


@contextmanager
def one_line_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Check that one line is logged, without the password."""
    caplog.set_level(logging.DEBUG, "uwsgi_waffle")
    yield
    assert len(caplog.records) == 1
    assert REDIS_PASSWORD not in caplog.text


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
def test_changes_that_cannot_be_announced_are_logged_once(
    scheme: str, caplog: pytest.LogCaptureFixture
) -> None:
    """However many follow, and without the password."""
    with hanging_up() as (port, calls), one_line_logged(caplog):
        bus = bus_at(f"{scheme}://user:{REDIS_PASSWORD}@127.0.0.1:{port}/0")
        wait_until(lambda: bus.publish(POSITION) or len(calls) >= 3, SOON_SECONDS, "three tries")
        assert not bus.publish(POSITION)
    assert "could not be announced" in caplog.text
    assert "user:***@" in caplog.text


@pytest.mark.parametrize("sent", [None, "", "wrong-one"], ids=["none", "empty", "wrong"])
def test_a_wrong_password_is_not_shown(
    own_redis: RedisServer, sent: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    user = "" if sent is None else f":{sent}@"
    bus = bus_at(f"redis://{user}127.0.0.1:{own_redis.port}/0")
    with one_line_logged(caplog):
        with pytest.raises(BusUnavailable) as raised, bus.subscribe():
            pass
        assert not bus.publish(POSITION)
    assert re.search("(?i)authenticat|password", str(raised.value)), "the reason is named"
    assert "wrong-one" not in caplog.text + str(raised.value)


def connections_made(client: redis.Redis) -> int:
    """Return how many connections a server has accepted so far."""
    found: Any = client.info("stats")
    return int(found["total_connections_received"])


def test_a_silent_redis_delays_one_change_and_is_then_left_alone(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise each update would take a second for as long as Redis is silent."""
    monkeypatch.setattr(announcements, "LEAVE_SILENT_SECONDS", 3600.0)
    bus = bus_at(own_redis.url)
    with bus.subscribe(), own_redis.client() as client, one_line_logged(caplog):
        assert bus.publish(POSITION)
        before = connections_made(client)
        own_redis.pause()
        began = time.monotonic()
        for _ in range(100):
            assert not bus.publish(POSITION)
        assert time.monotonic() - began < SOON_SECONDS, "only the first one waits for an answer"
        assert bus.is_resting
        own_redis.resume()
        assert connections_made(client) <= before + 1, "the pooled connection, or another one"
        assert not bus.publish(POSITION), "it still rests"
        # Where a process listens as well as writes, its subscription ends the rest.
        with bus.subscribe():
            assert bus.publish(POSITION)


def test_a_redis_that_rested_is_tried_again(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announcements, "LEAVE_SILENT_SECONDS", 0.2)
    bus, listening = bus_at(own_redis.url), bus_at(own_redis.url)
    with listening.subscribe():
        own_redis.pause()
        assert not bus.publish(POSITION)
        own_redis.resume()
        wait_until(lambda: bus.publish(POSITION), SOON_SECONDS, "changes are announced again")


def test_a_pooled_connection_that_died_idle_loses_no_announcement(own_redis: RedisServer) -> None:
    """Redis restarted, or a firewall closed it: the next change is announced all the same."""
    bus, listening = bus_at(own_redis.url), bus_at(own_redis.url)
    with listening.subscribe():
        assert bus.publish(POSITION)
    own_redis.restart()
    with listening.subscribe():
        assert bus.publish(POSITION)


def test_a_redis_that_does_not_answer_is_not_subscribed_to(own_redis: RedisServer) -> None:
    bus = bus_at(own_redis.url)
    own_redis.pause()
    with pytest.raises(BusUnavailable), bus.subscribe():
        pass
    own_redis.resume()
    check_round_trip(bus)
