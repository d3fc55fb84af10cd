"""How long a change waits for Redis, whatever lies between: a second at most, in all."""

from __future__ import annotations

import threading
import time
from functools import cache, partial

import pytest
import redis

from tests.conftest import Apps
from tests.support import RedisServer, wait_until
from tests.support.listening import Host
from tests.support.slow_network import distant, silent_name_server
from tests.support.soak import times
from tests.support.waiting import SOON_SECONDS
from uwsgi_waffle.bus import channel
from uwsgi_waffle.bus.client import ANSWER_SECONDS
from uwsgi_waffle.server import concurrency

#: For the commit, on a busy machine.
SLACK_SECONDS = 0.7


@pytest.fixture(autouse=True)
def _redis_is_not_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each change try Redis, after a failure as well."""
    monkeypatch.setattr(channel, "LEAVE_SILENT_SECONDS", 0.0)
    monkeypatch.setattr(concurrency.Backoff, "next_seconds", lambda _self: 0.0)


def check_changes(host: Host) -> None:
    """Change the setting a few times, and see how long each change takes."""
    for size in range(2, 2 + times(2, 10)):
        began = time.monotonic()
        host.change(size)
        assert time.monotonic() - began < ANSWER_SECONDS + SLACK_SECONDS
        assert host.size == size


@pytest.mark.parametrize(
    ("scheme", "round_trip_seconds"), [("redis", 0.5), ("redis", 0.9), ("rediss", 0.5)]
)
def test_a_change_waits_a_second_for_a_redis_that_is_far_away(
    apps: Apps, shared_redis: RedisServer, scheme: str, round_trip_seconds: float
) -> None:
    """Each connection and each command takes so long; TLS, which is not answered, as well."""
    with distant(shared_redis.port, round_trip_seconds) as port:
        check_changes(Host(apps, "here", f"{scheme}://127.0.0.1:{port}", listens=False))


def test_a_change_waits_a_second_for_a_name_server_that_is_silent(
    apps: Apps, monkeypatch: pytest.MonkeyPatch
) -> None:
    with silent_name_server(monkeypatch, "redis.example"):
        check_changes(Host(apps, "here", "redis://redis.example", listens=False))


def test_a_change_waits_a_second_for_a_ready_client_without_a_timeout(
    apps: Apps, own_redis: RedisServer
) -> None:
    with redis.Redis.from_url(own_redis.url) as client:
        host = Host(apps, "here", given=client, listens=False)
        host.change(1000)
        own_redis.pause()
        check_changes(host)
        own_redis.resume()


def test_a_change_is_announced_where_the_answers_come_within_the_second(
    apps: Apps, shared_redis: RedisServer
) -> None:
    """The connection that was too slow for the first change is kept for a later one."""
    sizes = iter(range(2, 1000))
    with distant(shared_redis.port, 0.2) as port:
        here = Host(apps, "here", f"redis://127.0.0.1:{port}", listens=False)
        there = Host(apps, "there", shared_redis)
        there.listen()
        wait_until(lambda: here.change(next(sizes)), SOON_SECONDS, "a change is announced")


def test_the_process_that_changes_a_setting_calls_back_while_redis_answers(
    apps: Apps, shared_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would be the last of its host to serve the change."""
    host, called_back = Host(apps, "here", shared_redis, listens=False), threading.Event()
    host.waffle.on_change("SIZE")(lambda _: called_back.set())
    answer = cache(partial(called_back.wait, SOON_SECONDS))  # the same each time
    monkeypatch.setattr(host.state.bus, "announce", lambda *_: answer)
    assert host.change(2), "it was announced when it had called back"
