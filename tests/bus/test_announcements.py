"""What is said on Redis, and how it is reached."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from tests.support import RedisServer, wait_until
from tests.support.listening_host import bus_of, config_of
from tests.support.redis_kinds import ClusterServer, watched_redis
from uwsgi_waffle.bus.announcements import Announcement, Backoff, Bus, BusUnavailable, Subscription

NEWS = Announcement("default", "00000000000000aa", 7)
UNUSED_URI = "sqlite://"
PASSWORD = "s3cret-p%40ss"  # noqa: S105  # of a server that the test starts
SPELT_OUT = "s3cret-p@ss"


def bus_at(url: str | None, given: Any = None, **keys: Any) -> Bus:
    """Return a bus that reaches Redis by a URL, or by a ready client."""
    return bus_of(config_of(UNUSED_URI, url, **keys), given)


def next_news(subscription: Subscription) -> list[Announcement]:
    """Return what is heard next."""
    return wait_until(lambda: subscription.receive(0.1), 10, "news comes")


def check_round_trip(bus: Bus) -> None:
    """Announce something, and hear it."""
    with bus.subscribe() as subscription:
        assert bus.publish(NEWS)
        assert next_news(subscription) == [NEWS]
        assert subscription.receive(0) == []


# -- what a message says ----------------------------------------------------------------------


@given(st.text(), st.text(), st.integers())
def test_an_announcement_comes_back_as_it_was(namespace: str, lineage: str, revision: int) -> None:
    news = Announcement(namespace, lineage, revision)
    assert Announcement.decode(news.encode()) == news
    assert Announcement.decode(news.encode().encode()) == news


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
nearly = st.fixed_dictionaries({"namespace": anything, "lineage": anything, "revision": anything})


@given(st.binary() | st.text() | (anything | nearly).map(json.dumps) | st.none() | st.integers())
def test_no_message_is_too_strange(message: object) -> None:
    """It is understood in all of its parts, or in none."""
    news = Announcement.decode(message)
    if news.namespace is None:
        assert news == Announcement(None)
    else:
        assert [type(part) for part in (news.namespace, news.lineage, news.revision)] == [
            str,
            str,
            int,
        ]


def test_a_message_holds_no_value() -> None:
    assert set(json.loads(NEWS.encode())) == {"namespace", "lineage", "revision"}


@given(st.floats(0.01, 1), st.floats(1, 60), st.integers(1, 100))
def test_a_backoff_doubles_up_to_its_cap_and_is_never_the_same_on_two_hosts(
    first: float, cap: float, tries: int
) -> None:
    backoff = Backoff(first, cap)
    for attempt in range(tries):
        whole = min(first * 2**attempt, cap)
        assert whole / 2 <= backoff.next_seconds() <= whole
    backoff.reset()
    assert backoff.next_seconds() <= first
    waits = {Backoff(first, cap).next_seconds() for _ in range(20)}
    assert len(waits) > 1


# -- how Redis is reached ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{}, {"password": SPELT_OUT}, {"unix_socket": True}, {"tls": True}],
    ids=["plain", "password", "unix", "tls"],
)
def test_each_form_of_url_reaches_redis(options: dict[str, Any]) -> None:
    with RedisServer(**options) as server:
        url = server.url.replace(SPELT_OUT, PASSWORD)
        check_round_trip(bus_at(url))


def test_host_and_port_reach_redis() -> None:
    with RedisServer() as server:
        check_round_trip(bus_at(None, redis_host="127.0.0.1", redis_port=server.port))


@pytest.mark.parametrize("decode_responses", [False, True])
def test_a_ready_client_wins_over_the_address(*, decode_responses: bool) -> None:
    with (
        RedisServer() as server,
        redis.Redis(port=server.port, decode_responses=decode_responses) as given,
    ):
        check_round_trip(bus_at("redis://127.0.0.1:1/0", given))


def test_a_sentinels_master_will_do() -> None:
    with watched_redis() as (_, client):
        check_round_trip(bus_at(None, client))


def test_a_cluster_will_do() -> None:
    with ClusterServer() as server, server.cluster_client() as client:
        check_round_trip(bus_at(None, client))


def test_a_cluster_that_is_gone_is_unavailable_like_any_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """redis-py has an error for it that is outside of its own tree."""
    with ClusterServer() as server, server.cluster_client() as client:
        bus = bus_at(None, client)
        check_round_trip(bus)
        server.kill()
        with pytest.raises(BusUnavailable), bus.subscribe():
            pass
        assert not bus.publish(NEWS)
    assert len(caplog.records) == 1


def test_what_a_ready_client_missed_while_it_reconnected_by_itself_counts_as_a_look() -> None:
    """redis-py subscribes again without a word; what was said in between is lost."""
    with RedisServer() as server, redis.Redis(port=server.port) as given:
        bus = bus_at(None, given)
        with bus.subscribe() as subscription:
            given.client_kill_filter(_type="pubsub")
            assert next_news(subscription) == [Announcement(None)]


# -- when it is not there ---------------------------------------------------------------------


@contextmanager
def hangs_up() -> Iterator[tuple[int, list[object]]]:
    """Give the port of a server that hangs up on whoever calls, and the calls so far."""
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
def at_most_one_line(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Check that one line is logged, and that no password is in it."""
    caplog.set_level(logging.DEBUG, "uwsgi_waffle")
    yield
    assert len(caplog.records) == 1
    for secret in (PASSWORD, SPELT_OUT):
        assert secret not in caplog.text


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
def test_a_change_that_cannot_be_announced_is_said_once(
    scheme: str, caplog: pytest.LogCaptureFixture
) -> None:
    """However many follow, and not with the password."""
    with hangs_up() as (port, calls), at_most_one_line(caplog):
        bus = bus_at(f"{scheme}://user:{PASSWORD}@127.0.0.1:{port}/0")
        # Each try calls twice, as a connection may have died while nobody used it.
        wait_until(lambda: bus.publish(NEWS) or len(calls) >= 6, 20, "it has tried three times")
        assert not bus.publish(NEWS)
    assert "revision 7 could not be announced" in caplog.text
    assert "user:***@" in caplog.text


@pytest.mark.parametrize("sent", [None, "", "wrong-one"], ids=["none", "empty", "wrong"])
def test_a_wrong_password_is_no_secret_to_anybody(
    sent: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    with RedisServer(password=SPELT_OUT) as server:
        user = "" if sent is None else f":{sent}@"
        bus = bus_at(f"redis://{user}127.0.0.1:{server.port}/0")
        with at_most_one_line(caplog):
            with pytest.raises(BusUnavailable) as raised, bus.subscribe():
                pass
            assert not bus.publish(NEWS)
        assert re.search("(?i)authenticat|password", str(raised.value)), "the reason is told"
        assert "wrong-one" not in caplog.text + str(raised.value)


def test_a_redis_that_stands_still_keeps_one_change_waiting_and_not_the_next(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Else each update takes a second for as long as it lasts."""
    with RedisServer() as server:
        bus = bus_at(server.url)
        assert bus.publish(NEWS)
        server.pause()
        with at_most_one_line(caplog), server.client() as client:
            for _ in range(100):
                assert not bus.publish(NEWS)
            server.resume()
            asked = client.info("commandstats")["cmdstat_publish"]["calls"]
        assert asked <= 3, "two at most have reached it since"
        wait_until(lambda: bus.publish(NEWS), 15, "changes are announced again")


def test_a_subscription_that_succeeds_ends_the_pause_after_a_failure() -> None:
    """Where a process listens as well as writes, it knows that Redis is back."""
    with RedisServer() as server:
        bus = bus_at(server.url)
        server.pause()
        assert not bus.publish(NEWS)
        server.resume()
        assert not bus.publish(NEWS), "it pauses"
        with bus.subscribe():
            assert bus.publish(NEWS)


def test_a_pooled_connection_that_died_unused_costs_no_announcement() -> None:
    """Redis restarted, or a firewall forgot: the first change after that is announced as well."""
    with RedisServer() as server:
        bus = bus_at(server.url)
        assert bus.publish(NEWS)
        server.restart()
        assert bus.publish(NEWS)


def test_a_redis_that_does_not_answer_is_not_subscribed_to() -> None:
    with RedisServer() as server:
        bus = bus_at(server.url)
        server.pause()
        with pytest.raises(BusUnavailable), bus.subscribe():
            pass
        server.resume()
        check_round_trip(bus)
