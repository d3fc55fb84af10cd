"""gunicorn: whatever its workers are, and whenever they load the app, a change reaches each."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.support import RedisServer, wait_until
from tests.support.other_servers import Gunicorn
from tests.support.waiting import NEVER_SECONDS, SOON_SECONDS

WORKER_CLASSES = ("sync", "gthread", "gevent")
WORKERS = 3
#: gunicorn itself waits 30 seconds for workers that do not end.
PROMPT_SECONDS = 10.0


@pytest.fixture(
    scope="module",
    params=[(name, preload) for name in WORKER_CLASSES for preload in (False, True)],
    ids=lambda param: f"{param[0]}-{'preload' if param[1] else 'no-preload'}",
)
def gunicorn(request: pytest.FixtureRequest, shared_redis: RedisServer) -> Iterator[Gunicorn]:
    """Give a gunicorn, each of whose workers has had a request."""
    worker_class, preload = request.param
    environment = {
        "WAFFLE_REDIS_URL": shared_redis.url,
        "WAFFLE_REDIS_CHANNEL": f"{worker_class}-{preload}",
        "WAFFLE_POLL_SECONDS": str(NEVER_SECONDS),
    }
    server = Gunicorn(environment, worker_class=worker_class, preload=preload, workers=WORKERS)
    with server:
        server.read_from_each()
        yield server


def test_each_worker_serves_a_change_at_its_next_request(gunicorn: Gunicorn) -> None:
    """Every worker serves a change at the next request that starts after `update` returned."""
    for value in range(1, 11):
        done = gunicorn.update({"S000": value, "S019": value})
        for answer in gunicorn.read_from_each():
            assert answer["revision"] == done["revision"]
            assert (answer["values"]["S000"], answer["values"]["S019"]) == (value, value)
            assert answer["again"] == answer["values"] == answer["config"]


def test_idle_workers_run_their_callbacks_by_themselves(gunicorn: Gunicorn) -> None:
    """A worker that has a listener runs `on_change` without a request."""
    workers = {answer["pid"] for answer in gunicorn.read_from_each()}
    gunicorn.update({"S000": 100})
    wait_until(lambda: gunicorn.journal.pids(100) == workers, SOON_SECONDS, "each calls back")


def test_one_worker_subscribes_for_all(gunicorn: Gunicorn, shared_redis: RedisServer) -> None:
    """There is one Redis subscription, counted at the server, also after changes."""
    channel = gunicorn.environment["WAFFLE_REDIS_CHANNEL"]
    shared_redis.wait_for_subscribers(1, channel)
    gunicorn.update({"S000": 200})
    gunicorn.read_from_each()
    assert shared_redis.subscribers(channel) == 1


def test_a_reload_gives_workers_that_follow(gunicorn: Gunicorn, shared_redis: RedisServer) -> None:
    """After SIGHUP the new workers serve, follow and subscribe as the old ones did."""
    before = gunicorn.update({"S000": 300})
    gunicorn.reload()
    answers = gunicorn.read_from_each()
    assert {answer["revision"] for answer in answers} == {before["revision"]}
    workers = {answer["pid"] for answer in answers}
    gunicorn.update({"S000": 301})
    wait_until(lambda: gunicorn.journal.pids(301) == workers, SOON_SECONDS, "all call back")
    assert {answer["values"]["S000"] for answer in gunicorn.read_from_each()} == {301}
    channel = gunicorn.environment["WAFFLE_REDIS_CHANNEL"]
    shared_redis.wait_for_subscribers(1, channel)


def test_a_listener_does_not_delay_a_graceful_shutdown(gunicorn: Gunicorn) -> None:
    """SIGTERM ends gunicorn and its workers by themselves, while their listeners listen."""
    gunicorn.read_from_each()
    gunicorn.process.send(signal.SIGTERM)
    wait_until(lambda: not gunicorn.process.running, PROMPT_SECONDS, "gunicorn ended")
    assert gunicorn.process.pids() == []
    assert "Traceback" not in gunicorn.log()
    assert "SIGKILL" not in gunicorn.log()


@pytest.mark.parametrize("worker_class", ["gthread", "gevent"])
def test_callbacks_that_do_not_return_hold_up_nothing(
    worker_class: str, shared_redis: RedisServer
) -> None:
    """Neither changes, nor the listener, nor the end."""
    channel = f"stuck-{worker_class}"
    environment = {
        "WAFFLE_REDIS_URL": shared_redis.url,
        "WAFFLE_REDIS_CHANNEL": channel,
        "WAFFLE_POLL_SECONDS": str(NEVER_SECONDS),
        "TEST_CALLBACK_SECONDS": "3600",
    }
    with Gunicorn(environment, worker_class=worker_class, preload=True, workers=2) as server:
        workers = {answer["pid"] for answer in server.read_from_each()}
        for value in range(1, 6):
            done = server.update({"S000": value})
            assert {answer["revision"] for answer in server.read_from_each()} == {done["revision"]}
        assert server.journal.pids(1) == workers
        assert not server.journal.pids(2)
        assert shared_redis.subscribers(channel) == 1
        server.process.send(signal.SIGTERM)
        wait_until(lambda: not server.process.running, PROMPT_SECONDS, "gunicorn ended")
        assert "SIGKILL" not in server.log()
