"""Redis and the database fail under a listener that runs, and come back."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tests.conftest import REDIS_PASSWORD, Apps
from tests.support import PostgresqlServer, RedisServer, wait_until
from tests.support.listening import Host
from tests.support.soak import times
from tests.support.waiting import NEVER_SECONDS, SOON_SECONDS
from uwsgi_waffle.bus import subscription

pytestmark = pytest.mark.usefixtures("quick_turns")

#: Which log lines are those of the listener.
LOGGERS = ("uwsgi_waffle.listen.listener", "uwsgi_waffle.listen.reconcile")


def pair(apps: Apps, redis: RedisServer, poll_seconds: float = NEVER_SECONDS) -> tuple[Host, Host]:
    """Return a host that writes, and one that can listen."""
    return (
        Host(apps, "writer", redis, listens=False),
        Host(apps, "here", redis, poll_seconds=poll_seconds),
    )


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what the listener has logged, which never shows the password."""
    assert REDIS_PASSWORD not in caplog.text
    return [
        record.getMessage()
        for record in caplog.records
        if record.name in LOGGERS and record.levelno >= logging.WARNING
    ]


def check_lost_and_back(caplog: pytest.LogCaptureFixture, what: str) -> None:
    """Check that one line was logged when it was lost, and one when it was back."""
    lost, back = warnings(caplog)
    assert what in lost
    assert "answers again" in back


def test_redis_absent_at_the_start_is_polled_around_and_used_once_it_is_there(
    apps: Apps, own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    own_redis.kill()
    writer, here = pair(apps, own_redis, 0.3)
    here.listen()
    here.wait_until_at(writer.commit())
    assert here.listener == "polling"
    own_redis.start()
    here.wait_until_heard_by(own_redis)
    wait_until(lambda: writer.announce(writer.commit()), SOON_SECONDS, "a change is announced")
    check_lost_and_back(caplog, "cannot be listened to")


def test_a_connection_that_is_cut_misses_nothing(apps: Apps, own_redis: RedisServer) -> None:
    """And its descriptor is closed: many times over there are no more of them."""
    writer, here = pair(apps, own_redis)
    here.listen(own_redis)
    descriptors = Path("/proc/self/fd")
    with own_redis.client() as operator:
        before = len(list(descriptors.iterdir()))
        for _ in range(times(8, 30)):
            record = writer.commit()
            operator.client_kill_filter(_type="pubsub")
            here.wait_until_at(record)
        here.wait_until_heard_by(own_redis)
        assert len(list(descriptors.iterdir())) <= before + 3


def test_a_redis_that_falls_silent_is_noticed_and_used_once_it_answers(
    apps: Apps,
    own_redis: RedisServer,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is stopped: connections stay open, and nothing comes."""
    monkeypatch.setattr(subscription, "PING_AFTER_SECONDS", times(1, 3) / 5)
    monkeypatch.setattr(subscription, "DEAD_AFTER_SECONDS", times(1, 8) * 1.0)
    writer, here = pair(apps, own_redis, 1.0)
    here.listen(own_redis)
    own_redis.pause()
    record = writer.commit()
    assert not writer.announce(record)
    here.wait_until_at(record)
    here.wait_until_listener("polling")
    here.wait_until_at(writer.commit())
    own_redis.resume()
    here.wait_until_heard_by(own_redis)
    wait_until(lambda: writer.announce(record), SOON_SECONDS, "changes are announced again")
    here.wait_until_at(writer.commit_and_announce())
    check_lost_and_back(caplog, "cannot be listened to")


@pytest.mark.parametrize("protocol", [2, 3])
def test_a_quiet_connection_is_kept(
    apps: Apps, redis_server: RedisServer, protocol: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Silence alone is no sign of death: the server is pinged, and answers."""
    monkeypatch.setattr(subscription, "PING_AFTER_SECONDS", 0.1)
    monkeypatch.setattr(subscription, "DEAD_AFTER_SECONDS", 1.0)
    here = Host(apps, "here", f"{redis_server.url}?protocol={protocol}")
    here.listen(redis_server)
    with redis_server.client() as operator:
        (first,) = operator.client_list(_type="pubsub")
        here.wait_for_turns(times(30, 100))  # 0.05 s each
        (second,) = operator.client_list(_type="pubsub")
    assert first["id"] == second["id"]


def test_redis_flushed_is_as_good_as_before(
    apps: Apps, own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    writer, here = pair(apps, own_redis)
    here.listen(own_redis)
    with own_redis.client() as operator:
        operator.flushall()
        operator.script_flush()
    record = writer.commit_and_announce()
    here.wait_until_at(record)
    assert writer.waffle.wait(record.revision, timeout=SOON_SECONDS).total == 1
    assert warnings(caplog) == []


def test_a_database_that_is_down_is_logged_once_and_caught_up_with_when_it_is_back(
    tmp_path: Path, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Announcements of that time are not lost either: the next poll reads what they announced."""
    with PostgresqlServer() as database:
        apps = Apps(tmp_path, database.url)
        writer, here = pair(apps, redis_server, 0.5)
        here.listen(redis_server)
        last = writer.commit_and_announce()
        here.wait_until_at(last)
        database.kill()
        for _ in range(3):
            assert writer.state.bus.announce(last.position.next(), last.keys)()
            here.wait_for_turns(15)
        assert here.state.host.position == last.position
        assert here.listener == "live", "Redis is heard all the same"
        database.start()
        here.wait_until_at(writer.commit())
        apps.close()
    check_lost_and_back(caplog, "asked again every 0.5 s")
