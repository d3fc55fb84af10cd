"""Two hosts, each with a host snapshot of its own, on one database and one Redis."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import pytest

from tests.support import DATABASE_KINDS, DatabaseKind, RedisServer, fresh_database, wait_until
from tests.support.waffle_host import WaffleHost, hosts

#: So long that nothing in a test that uses it waits for a poll.
NEVER_SECONDS = 3600
#: A message takes milliseconds; this only ends a test that would never end.
SOON_SECONDS = 10.0


@pytest.fixture(scope="module", params=DATABASE_KINDS)
def pair(request: pytest.FixtureRequest) -> Iterator[list[WaffleHost]]:
    """Give two hosts that do not poll."""
    kind: DatabaseKind = request.param
    with RedisServer() as redis_server, fresh_database(kind) as database_uri:
        environment = {
            "WAFFLE_DATABASE_URI": database_uri,
            "WAFFLE_REDIS_URL": redis_server.url,
            "WAFFLE_POLL_SECONDS": str(NEVER_SECONDS),
        }
        with hosts(environment) as both:
            wait_until(lambda: redis_server.subscribers() == 2, SOON_SECONDS, "both hosts listen")
            yield both


def test_the_other_hosts_idle_workers_run_their_callbacks(pair: list[WaffleHost]) -> None:
    """A change made on one host is told to every idle worker of the other, without a request."""
    here, there = pair
    for value in range(1, 31):
        done = here.update({"S000": value}, worker=value % here.workers)
        assert done["announced"]
        there.wait_until_told(value, SOON_SECONDS)
        here.wait_until_told(value, SOON_SECONDS)
    assert there.revisions() == here.revisions() == {done["revision"]}


def test_changes_made_on_both_hosts_at_once_end_alike(pair: list[WaffleHost]) -> None:
    """Changes made on both hosts in turn without a pause leave every worker at the last one."""
    for value in range(101, 141):
        writer = pair[value % 2]
        done = writer.update({"S001": value}, worker=value % writer.workers)
        assert writer.revisions() == {done["revision"]}
    for host in pair:
        host.wait_until_at(done["revision"], SOON_SECONDS)
        assert host.values("S001") == {140}


def test_a_slow_callback_of_the_writer_does_not_delay_the_other_host() -> None:
    """The announcement goes out before the callbacks of the process that made the change."""
    with RedisServer() as redis_server, fresh_database("sqlite") as database_uri:
        environment = {
            "WAFFLE_DATABASE_URI": database_uri,
            "WAFFLE_REDIS_URL": redis_server.url,
            "WAFFLE_POLL_SECONDS": str(NEVER_SECONDS),
            "TEST_CALLBACK_SECONDS": "1",
        }
        with hosts(environment, workers=1) as both:
            wait_until(lambda: redis_server.subscribers() == 2, SOON_SECONDS, "both hosts listen")
            for value in range(1, 4):
                done = both[0].update({"S000": value})
                told = both[1].wait_until_told(value, SOON_SECONDS)
                assert max(told.values()) < done["returned_ns"]


POLL_SECONDS = 5.0
AWAY_SECONDS = 30.0
UPDATES = 200
#: Redis goes after the 50th, and comes back while about 50 are to come.
GONE_AFTER = 50
#: What it takes to look at every worker beside two busy processors.
SLACK_SECONDS = 2.0


@pytest.mark.timeout(180)
def test_updates_while_redis_is_killed_for_30_seconds_are_not_lost() -> None:
    """None of 200 updates is lost; the other host is a poll behind at most, then fast again."""
    with RedisServer() as redis_server, fresh_database("sqlite") as database_uri:
        environment = {
            "WAFFLE_DATABASE_URI": database_uri,
            "WAFFLE_REDIS_URL": redis_server.url,
            "WAFFLE_POLL_SECONDS": str(POLL_SECONDS),
        }
        with hosts(environment) as both:
            wait_until(lambda: redis_server.subscribers() == 2, SOON_SECONDS, "both hosts listen")
            watch = _Watch(both)
            for _ in range(GONE_AFTER):
                watch.update()
            redis_server.kill()
            back_at = time.monotonic() + AWAY_SECONDS
            during = UPDATES - 2 * GONE_AFTER
            for number in range(during):
                watch.update()
                due = back_at - AWAY_SECONDS * (during - 1 - number) / during
                _wait_until_it_is(due)
            redis_server.start()
            wait_until(lambda: redis_server.subscribers() == 2, 5.0, "both listen within 5 s")
            _assert_fast(both, watch)
            watch.check()


def _wait_until_it_is(due: float) -> None:
    wait_until(lambda: time.monotonic() >= due, AWAY_SECONDS, "it is time")


class _Watch:
    """Updates through random workers, and how late the other host was with each."""

    def __init__(self, both: list[WaffleHost]) -> None:
        self._both = both
        self._returned_ns: dict[int, int] = {}
        self._random = random.Random(1)  # noqa: S311  so that a failure comes again

    def update(self) -> int:
        """Make an update on the first host, see it on each worker there, and return its value."""
        here = self._both[0]
        value = len(self._returned_ns) + 1
        done = here.update({"S000": value}, worker=self._random.randrange(here.workers))
        self._returned_ns[value] = done["returned_ns"]
        assert here.values() == {value}
        return value

    def check(self) -> None:
        """Assert that the other host's workers were each a poll behind at most, and miss none."""
        assert len(self._returned_ns) == UPDATES
        there = self._both[1]
        for pid in there.server.worker_pids():
            told = sorted(
                (v, there.told(v)[pid]) for v in self._returned_ns if pid in there.told(v)
            )
            for value, returned_ns in self._returned_ns.items():
                # Told of this value, or of a later one that superseded it.
                at_ns = min(at for later, at in told if later >= value)
                assert (at_ns - returned_ns) / 1e9 <= POLL_SECONDS + SLACK_SECONDS
        assert there.values() == {UPDATES}


def _assert_fast(both: list[WaffleHost], watch: _Watch) -> None:
    """Assert that each of the last updates reaches the other host long before it would poll."""
    for _ in range(GONE_AFTER):
        value = watch.update()
        both[1].wait_until_told(value, POLL_SECONDS / 5)
