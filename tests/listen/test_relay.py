"""What a process of a host has committed and could not announce, its listener announces."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from redis.client import PubSubWorkerThread

from tests.conftest import Apps
from tests.support import RedisServer, wait_until
from tests.support.listening import Host
from tests.support.waiting import SOON_SECONDS
from uwsgi_waffle.bus.announcements import Announcement
from uwsgi_waffle.errors import StoreUnavailable
from uwsgi_waffle.listen import listener
from uwsgi_waffle.values.position import NOWHERE, Position
from uwsgi_waffle.values.snapshot import Record

pytestmark = pytest.mark.usefixtures("quick_turns")


class Site:
    """Two hosts that never poll, another process of the first that writes, and all messages."""

    def __init__(self, apps: Apps, redis_server: RedisServer, heard: list[int]) -> None:
        self.here = Host(apps, "here", redis_server)
        self.there = Host(apps, "there", redis_server)
        self.writer = Host(apps, "here", redis_server, listens=False)
        self.heard = heard

    def commit(self, *, announced: bool) -> Position:
        """Do what a worker of the first host does, up to the message or with it."""
        record = self.writer.commit()
        self.writer.state.host.publish(record)
        if announced:
            assert self.writer.announce(record)
        return record.position

    def wait_for_a_relay(self) -> None:
        """Return when both listeners have announced whatever they had to."""
        turns = int(2 * listener.RELAY_AFTER_SECONDS / 0.05) + 2
        for host in (self.here, self.there):
            host.wait_for_turns(turns)


@pytest.fixture
def site(apps: Apps, own_redis: RedisServer) -> Iterator[Site]:
    """Give two hosts that are up to date."""
    with hearing(own_redis) as heard:
        made = Site(apps, own_redis, heard)
        made.commit(announced=False)
        for host in (made.here, made.there):
            host.listen()
        own_redis.wait_for_subscribers(3)
        for host in (made.here, made.there):
            host.wait_until_listener("live")
            host.wait_until_at(made.writer.state.store.peek())
            host.wait_for_turns()
        yield made
        apps.close()


@contextlib.contextmanager
def relay_held() -> Iterator[None]:
    """Keep listeners from announcing for others, however long a busy machine takes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listener, "RELAY_AFTER_SECONDS", 3600.0)
        yield


@contextlib.contextmanager
def hearing(redis_server: RedisServer) -> Iterator[list[int]]:
    """Give the revisions that are announced."""
    heard: list[int] = []

    def note(message: dict[str, Any]) -> None:
        heard.append(json.loads(message["data"])[3])

    with redis_server.client() as client:
        subscription = client.pubsub(ignore_subscribe_messages=True)
        subscription.subscribe(waffleconf=note)
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


def test_a_commit_that_was_not_announced_reaches_the_other_host(site: Site) -> None:
    """Such as that of a worker which was killed before its message."""
    revisions = []
    for _ in range(3):
        position = site.commit(announced=False)
        site.there.wait_until_at(position)
        revisions.append(position.revision)
    site.wait_for_a_relay()
    assert site.heard == revisions, "each is announced once, and not again by the other host"


def test_what_the_writer_has_announced_is_not_announced_twice(site: Site) -> None:
    revisions = []
    for _ in range(3):
        with relay_held():
            position = site.commit(announced=True)
            site.there.wait_until_at(position)
            revisions.append(position.revision)
            site.here.wait_for_turns()
        site.wait_for_a_relay()
    assert site.heard == revisions


def test_of_several_commits_the_last_is_announced_alone(site: Site) -> None:
    with relay_held():
        *_, last = [site.commit(announced=False) for _ in range(20)]
        site.here.wait_for_turns()
    site.there.wait_until_at(last)
    site.wait_for_a_relay()
    assert site.heard == [last.revision]


@pytest.mark.parametrize("forgery", ["unsigned", "another lineage", "another stamp"])
def test_a_forged_or_overtaken_message_silences_no_listener(
    site: Site, own_redis: RedisServer, forgery: str
) -> None:
    """The change that follows is announced, although the message was later than it."""
    position = site.here.state.host.position
    keys = site.here.state.host.keys
    later = replace(position, revision=2**62)
    other = replace(position, lineage="00000000000000bb", revision=2**62)
    message = {
        "unsigned": Announcement("default", later).encode(["f" * 64]),
        "another lineage": Announcement("default", other).encode(keys),
        # SQL's state of the next revision will be another one than this.
        "another stamp": Announcement("default", position.next()).encode(keys),
    }[forgery]
    with own_redis.client() as client:
        client.publish("waffleconf", message)
    wait_until(lambda: site.heard, SOON_SECONDS, "it is heard")
    site.here.wait_for_turns()
    site.there.wait_until_at(site.commit(announced=False))


def test_what_was_committed_while_redis_was_away_is_announced_when_it_is_back(
    site: Site, own_redis: RedisServer
) -> None:
    """Our listeners read SQL by themselves then; another writer may still leave Redis alone."""
    own_redis.kill()
    for host in (site.here, site.there):
        host.wait_until_listener("polling")
    position = site.commit(announced=False)
    own_redis.start()
    with hearing(own_redis) as heard:
        site.there.wait_until_at(position)
        for host in (site.here, site.there):
            host.wait_until_listener("live")
        site.wait_for_a_relay()
        with own_redis.client() as client:
            client.publish("waffleconf", json.dumps(["end", "", "", 0]))
        wait_until(lambda: 0 in heard, SOON_SECONDS, "all is heard")
    # Once at most: it may have been announced before this test was subscribed.
    assert heard in ([0], [position.revision, 0])


def test_what_another_process_of_the_host_read_first_is_not_announced_again(site: Site) -> None:
    """The listener has heard of it, though it was not the one to read it."""
    record = site.writer.commit()
    reconcile = site.here.state.reconciler.reconcile

    def overtaken(wanted: Position | None = None, *, at_start: bool = False) -> Record | None:
        site.writer.state.host.publish(record)
        return reconcile(wanted, at_start=at_start)

    site.here.state.reconciler.reconcile = overtaken  # type: ignore[method-assign]  # a race, held
    assert site.writer.announce(record)
    site.there.wait_until_at(record)
    site.wait_for_a_relay()
    assert site.heard == [record.revision]


def test_a_host_that_has_lost_its_snapshot_announces_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With SQL away as well there is nothing in the file that takes its place."""
    for ask in ("read", "peek"):
        monkeypatch.setattr(site.here.state.store, ask, _is_away)
    site.here.state.host.path.unlink()
    wait_until(lambda: site.here.state.host.position == NOWHERE, SOON_SECONDS, "a new file")
    site.wait_for_a_relay()
    assert site.heard == []


def _is_away() -> Any:
    message = "away"
    raise StoreUnavailable(message, url="")
