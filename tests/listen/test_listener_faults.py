"""Redis and the database fail under a running listener, and come back."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import PostgresqlServer, RedisServer, wait_until
from tests.support.listening_host import (
    NEVER_SECONDS,
    ListeningHost,
    Writer,
    config_of,
    listening,
    writing,
)
from tests.support.redis_kinds import ClusterServer, watched_redis
from uwsgi_waffle.bus.announcements import Announcement
from uwsgi_waffle.bus.client import RedisClient

PASSWORD = "s3cret-word"  # noqa: S105  # of a server that the test starts
#: How long a listener may take to notice that nobody is at the other end of its connection.
NOTICE_SECONDS = 15.0
#: How soon it must be back once Redis is.
BACK_SECONDS = 5.0


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """Give a Redis to break, which is not running yet."""
    server = RedisServer(password=PASSWORD)
    with contextlib.closing(server):
        yield server


@pytest.fixture
def writer(redis_server: RedisServer, tmp_path: Path) -> Iterator[Writer]:
    """Give another host that writes."""
    with writing(tmp_path, redis_server.url) as made:
        yield made


@contextlib.contextmanager
def here_polling(writer: Writer, directory: Path, seconds: float) -> Iterator[ListeningHost]:
    """Run a listener on the writer's database and Redis."""
    config = config_of(writer.config.database_uri, writer.config.redis_url, poll_seconds=seconds)
    with listening(config, directory) as here:
        yield here


def open_descriptors() -> int:
    """Return how many descriptors this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what the listener and the reconciler have said, and check that it is no secret."""
    assert PASSWORD not in caplog.text
    return [
        record.getMessage()
        for record in caplog.records
        if record.name in ("uwsgi_waffle.listen.listener", "uwsgi_waffle.listen.reconcile")
        and record.levelno >= logging.WARNING
    ]


def check_lost_and_back(caplog: pytest.LogCaptureFixture, what: str) -> None:
    """Check that one line was logged when it was lost, and one when it was back."""
    lost, back = lines(caplog)
    assert what in lost
    assert "answers again" in back


def test_redis_absent_at_the_start_is_polled_around_and_used_once_it_is_there(
    redis_server: RedisServer, writer: Writer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with here_polling(writer, tmp_path, 0.3) as here:
        here.wait_until_at(writer.write())
        wait_until(lambda: here.listener.error, 10, "it has been missed")
        assert not here.listener.is_live
        redis_server.start()
        here.wait_until_live(BACK_SECONDS)
        assert here.listener.error is None
        wait_until(lambda: writer.bus.publish(writer.news(writer.write())), 10, "announced")
    check_lost_and_back(caplog, "cannot be listened to")


def test_what_was_committed_while_redis_was_away_is_read_when_it_is_back(
    redis_server: RedisServer, writer: Writer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By the first look after the connection: this listener never polls, and nobody tells it."""
    with here_polling(writer, tmp_path, NEVER_SECONDS) as here:
        redis_server.start()
        here.wait_until_live(20)
        for _ in range(3):
            redis_server.kill()
            wait_until(lambda: not here.listener.is_live, 10, "the loss is noticed")
            record = writer.write()
            assert not writer.bus.publish(writer.news(record))
            redis_server.start()
            here.wait_until_at(record, BACK_SECONDS)
        wait_until(lambda: writer.bus.publish(writer.news(record)), 10, "announced")
        here.wait_until_at(writer.write_and_tell())
    lost_or_back = [line for line in lines(caplog) if "Redis" in line]
    assert len(lost_or_back) in (6, 8), "one when lost, one when back"


def test_a_connection_that_is_cut_misses_nothing(
    redis_server: RedisServer, writer: Writer, tmp_path: Path
) -> None:
    """Its descriptor is closed, too: thirty times over there are no more of them."""
    redis_server.start()
    with (
        here_polling(writer, tmp_path, NEVER_SECONDS) as here,
        redis_server.client() as operator,
    ):
        here.wait_until_live()
        before = open_descriptors()
        for _ in range(30):
            record = writer.write()
            operator.client_kill_filter(_type="pubsub")
            here.wait_until_at(record, BACK_SECONDS)
        here.wait_until_live()
        assert open_descriptors() <= before + 3
        assert redis_server.subscribers() == 1


def test_a_connection_that_nobody_is_at_the_end_of_is_noticed_and_made_anew(
    redis_server: RedisServer, writer: Writer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Redis stands still: what was open stays open, and says nothing."""
    redis_server.start()
    with here_polling(writer, tmp_path, 1.0) as here:
        here.wait_until_live()
        redis_server.pause()
        record = writer.write()
        assert not writer.bus.publish(writer.news(record))
        here.wait_until_at(record, 5)
        wait_until(lambda: not here.listener.is_live, NOTICE_SECONDS, "the silence is noticed")
        here.wait_until_at(writer.write(), 5)
        redis_server.resume()
        here.wait_until_live(BACK_SECONDS)
        assert redis_server.subscribers() == 1
        wait_until(lambda: writer.bus.publish(writer.news(record)), 10, "announced again")
        here.wait_until_at(writer.write_and_tell())
    check_lost_and_back(caplog, "cannot be listened to")


@pytest.mark.parametrize("protocol", [2, 3])
def test_a_quiet_connection_is_kept(
    protocol: int,
    redis_server: RedisServer,
    writer: Writer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Silence alone is no sign of death: the server is asked, and answers."""
    monkeypatch.setattr("uwsgi_waffle.bus.PING_AFTER_SECONDS", 0.1)
    monkeypatch.setattr("uwsgi_waffle.bus.DEAD_AFTER_SECONDS", 0.6)
    redis_server.start()
    redis_url = f"{redis_server.url}?protocol={protocol}"
    config = config_of(writer.config.database_uri, redis_url, poll_seconds=NEVER_SECONDS)
    with listening(config, tmp_path) as here:
        here.wait_until_live()
        with redis_server.client() as operator:
            (first,) = operator.client_list(_type="pubsub")
            here.wait_for_turns(40)  # 2 s
            (second,) = operator.client_list(_type="pubsub")
        assert first["id"] == second["id"]


def test_redis_flushed_is_as_good_as_before(
    redis_server: RedisServer, writer: Writer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    redis_server.start()
    with here_polling(writer, tmp_path, NEVER_SECONDS) as here:
        here.wait_until_live()
        with redis_server.client() as operator:
            operator.flushall()
            operator.script_flush()
        here.wait_until_at(writer.write_and_tell())
    assert lines(caplog) == []


def test_a_database_that_is_down_is_said_once_and_caught_up_with_when_it_is_back(
    redis_server: RedisServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Messages of that time are not lost either: what they told of is read by the next poll."""
    redis_server.start()
    with PostgresqlServer() as database:
        writer = Writer(config_of(database.url, redis_server.url))
        with here_polling(writer, tmp_path, 0.5) as here:
            here.wait_until_at(writer.write_and_tell())
            last = writer.write_and_tell()
            here.wait_until_at(last)
            database.kill()
            for _ in range(3):
                ahead = Announcement("default", last.lineage, last.revision + 1)
                assert writer.bus.publish(ahead)
                here.wait_for_turns(20)
            assert here.host.position == (last.lineage, last.revision)
            assert here.listener.is_live, "Redis is heard all the same"
            database.start()
            here.wait_until_at(writer.write(), 10)
        writer.store.database.close()
    check_lost_and_back(caplog, "asked again every 0.5 s")


def check_that_it_comes_back(
    broken: RedisServer, given: RedisClient, database_uri: str, directory: Path
) -> None:
    """Break the Redis behind a ready client, and see that nothing is missed."""
    config = config_of(database_uri, poll_seconds=NEVER_SECONDS)
    writer = Writer(config, given)
    writer.write()
    with contextlib.closing(writer.store.database), listening(config, directory, given) as here:
        here.wait_until_live()
        here.wait_until_at(writer.write_and_tell())
        broken.kill()
        wait_until(lambda: not here.listener.is_live, 10, "the loss is noticed")
        record = writer.write()
        broken.start()
        here.wait_until_at(record, 15)
        wait_until(lambda: writer.bus.publish(writer.news(record)), 15, "announced again")
        here.wait_until_at(writer.write_and_tell())


def test_a_listener_hears_by_way_of_a_sentinel(tmp_path: Path) -> None:
    with watched_redis() as (server, client):
        check_that_it_comes_back(server, client, f"sqlite:///{tmp_path}/waffle.db", tmp_path)


def test_a_listener_hears_on_a_cluster(tmp_path: Path) -> None:
    with ClusterServer() as server, server.cluster_client() as client:
        check_that_it_comes_back(server, client, f"sqlite:///{tmp_path}/waffle.db", tmp_path)
