"""Two hosts, each with a host snapshot of its own, on one database and one Redis."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator

import pytest

from tests.support import DATABASE_KINDS, DatabaseKind, RedisServer, fresh_database, wait_until
from tests.support.instance import Instance, hosts
from tests.support.soak import is_soak, times


def environment(redis: RedisServer, database_uri: str, channel: str) -> dict[str, str]:
    """Return what hosts have in common; they do not poll."""
    return {
        "WAFFLE_DATABASE_URI": database_uri,
        "WAFFLE_REDIS_URL": redis.url,
        "WAFFLE_REDIS_CHANNEL": channel,
    }


@pytest.fixture(scope="module", params=DATABASE_KINDS)
def pair(request: pytest.FixtureRequest, shared_redis: RedisServer) -> Iterator[list[Instance]]:
    """Give two hosts on each kind of database."""
    kind: DatabaseKind = request.param
    with (
        fresh_database(kind) as database_uri,
        hosts(environment(shared_redis, database_uri, kind)) as both,
    ):
        shared_redis.wait_for_subscribers(2, kind)
        yield both


def test_the_other_hosts_idle_workers_call_back(pair: list[Instance]) -> None:
    """Each idle worker of the other host follows a change, without a request."""
    here, there = pair
    for value in range(1, times(8, 30) + 1):
        done = here.update({"S000": value}, worker=1 + value % here.workers)
        assert done["announced"]
        there.wait_until_called_back(value)
        here.wait_until_called_back(value)
    assert there.revisions() == here.revisions() == {done["revision"]}


def test_changes_made_on_both_hosts_in_turn_end_alike(pair: list[Instance]) -> None:
    """Without a pause between them; every worker ends at the last one."""
    last = 100 + times(12, 40)
    for value in range(101, last + 1):
        writer = pair[value % 2]
        done = writer.update({"S001": value}, worker=1 + value % writer.workers)
        assert writer.revisions() == {done["revision"]}
    for host in pair:
        host.wait_until_at(done["revision"])
        assert host.values("S001") == {last}


def test_a_slow_callback_of_the_writer_does_not_delay_the_other_host(
    redis_server: RedisServer,
) -> None:
    """The announcement goes out before the callbacks of the process that made the change."""
    with fresh_database("sqlite") as database_uri:
        slow = {**environment(redis_server, database_uri, "slow"), "TEST_CALLBACK_SECONDS": "1"}
        with hosts(slow, workers=1) as both:
            redis_server.wait_for_subscribers(2, "slow")
            for value in range(1, times(1, 3) + 1):
                done = both[0].update({"S000": value})
                called_back = both[1].wait_until_called_back(value)
                assert max(called_back.values()) < done["returned_ns"]


#: How long Redis is away, how often hosts poll, and how many updates are made in all; of those a
#: quarter before Redis goes, and a quarter after it is back.
AWAY_SECONDS = 30.0 if is_soak() else 4.0
POLL_SECONDS = 5.0 if is_soak() else 3.0
UPDATES = times(40, 200)
#: What it may take to call back beside two busy processors.
SLACK_SECONDS = 5.0


@pytest.mark.timeout(180)
def test_updates_while_redis_is_away_are_not_lost(own_redis: RedisServer) -> None:
    """The other host is a poll behind at most, then as fast as before."""
    with fresh_database("sqlite") as database_uri:
        polling = {
            **environment(own_redis, database_uri, "away"),
            "WAFFLE_POLL_SECONDS": str(POLL_SECONDS),
        }
        with hosts(polling) as both:
            own_redis.wait_for_subscribers(2, "away")
            watch = _Watch(both)
            for _ in range(UPDATES // 4):
                watch.update()
            own_redis.kill()
            killed_at = time.monotonic()
            for number in range(1, UPDATES // 2 + 1):
                watch.update()
                due = killed_at + AWAY_SECONDS * number / (UPDATES // 2)
                wait_until(lambda: time.monotonic() >= due, AWAY_SECONDS, "it is time")  # noqa: B023
            own_redis.start()
            own_redis.wait_for_subscribers(2, "away")
            both[1].wait_until_serving(watch.last)
            for _ in range(UPDATES // 4):
                both[1].wait_until_called_back(watch.update())
            delays = watch.delays()
            assert max(delays) <= POLL_SECONDS + SLACK_SECONDS
            # The last ones did not wait for polls; the machine may have been busy at some.
            assert statistics.median(delays[-UPDATES // 4 :]) < POLL_SECONDS / 4


class _Watch:
    """Updates through random workers, and how late the other host was with each."""

    def __init__(self, both: list[Instance]) -> None:
        self._both = both
        self._returned_ns: dict[int, int] = {}
        self._random = random.Random(1)  # noqa: S311  so that a failure can be repeated

    @property
    def last(self) -> int:
        """The value of the last update."""
        return len(self._returned_ns)

    def update(self) -> int:
        """Make an update on the first host, see it on each worker there, and return its value."""
        here, value = self._both[0], self.last + 1
        done = here.update({"S000": value}, worker=self._random.randint(1, here.workers))
        self._returned_ns[value] = done["returned_ns"]
        assert here.values() == {value}
        return value

    def delays(self) -> list[float]:
        """Return, for each update, how many seconds the slowest worker of the other host took."""
        there = self._both[1]
        assert there.values() == {self.last} == {UPDATES}
        pids = there.worker_pids()
        journal = {value: there.journal.called_back(value) for value in self._returned_ns}
        delays = []
        for value, returned_ns in self._returned_ns.items():
            # A worker calls back with this value, or with a later one that superseded it.
            later = [entry for other, entry in journal.items() if other >= value]
            at_ns = max(min(entry[pid] for entry in later if pid in entry) for pid in pids)
            delays.append((at_ns - returned_ns) / 1e9)
        return delays
