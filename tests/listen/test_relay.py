"""What a process of a host has committed and could not announce, its listener announces."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.client import PubSubWorkerThread

from tests.support import RedisServer, wait_until
from tests.support.listening_host import (
    NEVER_SECONDS,
    ListeningHost,
    Writer,
    config_of,
    listening,
    writing,
)
from uwsgi_waffle import relay
from uwsgi_waffle.errors import StoreUnavailable
from uwsgi_waffle.values.snapshot import Record

#: Far beyond the time after which a change that nobody announced is announced.
SOON_SECONDS = 10.0


class Site:
    """Two hosts that never poll, a writer on the first, and all that is said."""

    def __init__(
        self, writer: Writer, here: ListeningHost, there: ListeningHost, heard: list[int]
    ) -> None:
        self.writer = writer
        self.here = here
        self.there = there
        self.heard = heard

    def commit(self, *, announced: bool) -> tuple[str, int]:
        """Do what a worker of the first host does, up to the message or with it."""
        record = self.writer.write()
        self.here.host.publish(record)
        if announced:
            assert self.writer.bus.publish(self.writer.news(record))
        return record.lineage, record.revision

    def wait_until_there(self, position: tuple[str, int]) -> None:
        """Return when the other host has taken a revision."""
        wait_until(lambda: self.there.host.position == position, SOON_SECONDS, "it is there")

    def wait_for_a_relay(self) -> None:
        """Return when whatever either listener had to relay is relayed."""
        turns = int(2 * relay.RELAY_AFTER_SECONDS / 0.05) + 2
        for host in (self.here, self.there):
            host.wait_for_turns(turns)


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """Give a Redis."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def site(redis_server: RedisServer, tmp_path: Path) -> Iterator[Site]:
    """Give two hosts that are up to date."""
    directories = tmp_path / "here", tmp_path / "there"
    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(writing(tmp_path, redis_server.url))
        config = config_of(writer.config.database_uri, redis_server.url, poll_seconds=NEVER_SECONDS)
        both = []
        for directory in directories:
            directory.mkdir()
            both.append(stack.enter_context(listening(config, directory)))
        heard = stack.enter_context(hearing(redis_server))
        for host in both:
            host.wait_until_live()
            wait_until(host.host.position, SOON_SECONDS, "the first revision is taken")
        yield Site(writer, both[0], both[1], heard)


@pytest.fixture
def _relay_is_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give writers the time that a machine which stalls may take from them."""
    monkeypatch.setattr(relay, "RELAY_AFTER_SECONDS", 2.0)


@contextlib.contextmanager
def hearing(redis_server: RedisServer) -> Iterator[list[int]]:
    """Give the revisions that are announced."""
    heard: list[int] = []
    with redis_server.client() as client:
        subscription = client.pubsub(ignore_subscribe_messages=True)
        subscription.subscribe(
            waffleconf=lambda message: heard.append(json.loads(message["data"])["revision"])
        )
        thread = subscription.run_in_thread(sleep_time=0.02, exception_handler=_end_with_redis)
        try:
            yield heard
        finally:
            thread.stop()
            thread.join(10)


def _end_with_redis(
    _error: BaseException, _subscription: object, thread: PubSubWorkerThread
) -> None:
    thread.stop()


def test_a_commit_that_nobody_announced_reaches_the_other_host(site: Site) -> None:
    """Such as that of a worker which was killed before its message."""
    revisions = []
    for _ in range(5):
        position = site.commit(announced=False)
        site.wait_until_there(position)
        revisions.append(position[1])
    site.wait_for_a_relay()
    assert site.heard == revisions, "each is said once, and not again by who heard it"


@pytest.mark.usefixtures("_relay_is_patient")
def test_what_the_writer_has_announced_is_not_said_twice(site: Site) -> None:
    revisions = []
    for _ in range(10):
        position = site.commit(announced=True)
        site.wait_until_there(position)
        revisions.append(position[1])
        site.here.wait_for_turns()
    site.wait_for_a_relay()
    assert site.heard == revisions


@pytest.mark.usefixtures("_relay_is_patient")
def test_the_last_of_several_is_said_alone(site: Site) -> None:
    *_, last = [site.commit(announced=False) for _ in range(20)]
    site.wait_until_there(last)
    site.wait_for_a_relay()
    assert site.heard == [last[1]]


def test_a_forged_message_silences_nobody(site: Site, redis_server: RedisServer) -> None:
    """Neither one of a revision that is not there yet, nor one of another lineage."""
    lineage, revision = site.here.host.position
    for said in ((lineage, 2**62), ("00000000000000bb", revision + 1)):
        fields = {"namespace": "default", "lineage": said[0], "revision": said[1]}
        with redis_server.client() as client:
            client.publish("waffleconf", json.dumps(fields))
        wait_until(lambda: said[1] in site.heard, SOON_SECONDS, "it is heard")  # noqa: B023
        site.here.wait_for_turns()
        site.wait_until_there(site.commit(announced=False))


def test_what_was_committed_while_redis_was_away_is_announced_when_it_is_back(
    site: Site, redis_server: RedisServer
) -> None:
    """Our own listeners look by themselves then; a writer may leave Redis alone a while longer."""
    redis_server.kill()
    wait_until(
        lambda: not site.here.listener.is_live and not site.there.listener.is_live,
        SOON_SECONDS,
        "both notice",
    )
    position = site.commit(announced=False)
    redis_server.start()
    site.wait_until_there(position)
    site.wait_for_a_relay()
    with redis_server.client() as client:
        assert client.info("commandstats")["cmdstat_publish"]["calls"] == 1


def test_what_another_process_of_the_host_read_first_is_not_said_again(site: Site) -> None:
    """The listener has heard of it, though it was not the one to read it."""
    record = site.writer.write()
    take = site.here.reconciler.take

    def overtaken(at_least: tuple[str, int] | None = None) -> Record | None:
        site.here.host.publish(record)
        return take(at_least)

    site.here.reconciler.take = overtaken  # type: ignore[method-assign,assignment]  # a race, held
    assert site.writer.bus.publish(site.writer.news(record))
    site.wait_until_there((record.lineage, record.revision))
    site.wait_for_a_relay()
    assert site.heard == [record.revision]


def test_a_host_that_has_lost_its_snapshot_has_nothing_to_say(site: Site) -> None:
    """With SQL away as well there is nothing in the file that takes its place."""
    site.here.store.read = site.here.store.peek = _is_away  # type: ignore[method-assign]
    site.here.host.path.unlink()
    wait_until(lambda: site.here.host.position == ("", 0), SOON_SECONDS, "there is a new file")
    site.wait_for_a_relay()
    assert site.heard == []


def _is_away() -> Any:
    message = "away"
    raise StoreUnavailable(message, url="")
