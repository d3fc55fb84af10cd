"""How Redis is reached, and what an update costs where it cannot be."""

from __future__ import annotations

import contextlib
import logging
import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.bus.conftest import POSITION, bus_at
from tests.bus.messages import check_round_trip, heard_by
from tests.conftest import REDIS_PASSWORD
from tests.support import RedisServer, wait_until
from tests.support.waiting import SOON_SECONDS
from uwsgi_waffle.bus import channel
from uwsgi_waffle.bus import subscription as subscriptions
from uwsgi_waffle.bus.client import BusUnavailable
from uwsgi_waffle.bus.subscription import Heard


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
    monkeypatch.setattr(subscriptions, "PING_AFTER_SECONDS", 0.0)
    monkeypatch.setattr(subscriptions, "DEAD_AFTER_SECONDS", 0.1)
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
    monkeypatch.setattr(channel, "LEAVE_SILENT_SECONDS", 3600.0)
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
    monkeypatch.setattr(channel, "LEAVE_SILENT_SECONDS", 0.2)
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
