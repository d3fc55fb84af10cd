"""What a change costs Redis and the database, counted at the servers, with few or many workers."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.support import PostgresqlServer, RedisServer
from tests.support.counting import CountingServer
from tests.support.instance import BOOT, Instance
from tests.support.soak import is_soak, times

CHANGES = times(5, 10)
WORKER_COUNTS = (2, 8, 32) if is_soak() else (2, 6)
HOSTS = ("here", "there")


@pytest.fixture(scope="module")
def database() -> Iterator[CountingServer]:
    """Give a PostgreSQL that counts."""
    with PostgresqlServer() as server:
        counting = CountingServer(server)
        if is_soak():  # room for the connections of 64 workers
            server.restart()
        yield counting


@contextlib.contextmanager
def two_hosts(
    database: CountingServer, redis_server: RedisServer, workers: int
) -> Iterator[list[Instance]]:
    """Run two hosts with so many workers each."""
    name = f"with_{workers}"
    database.create_database(name)
    with contextlib.ExitStack() as stack:
        made = []
        for host in HOSTS:
            environment = {
                "WAFFLE_DATABASE_URI": database.url_for(host, name),
                "WAFFLE_REDIS_URL": redis_server.url,
                "TEST_SETTINGS": "100",
            }
            instance = Instance(BOOT, workers=workers, environment=environment)
            made.append(stack.enter_context(instance))
        redis_server.wait_for_subscribers(len(HOSTS))
        yield made


@pytest.mark.parametrize("workers", WORKER_COUNTS)
def test_a_change_costs_its_host_one_select_and_the_others_a_subscription(
    database: CountingServer, redis_server: RedisServer, workers: int
) -> None:
    """Those are the costs however many workers there are; the change comes with the message."""
    with two_hosts(database, redis_server, workers) as both:
        change_through_each(both, first=1, count=2)  # makes connections that stay
        start = database.mark()
        change_through_each(both, first=11, count=CHANGES)
        end = database.mark()

        statements = {host: Counter(database.statements(host, start, end)) for host in HOSTS}
        selects = {
            text: count
            for text, count in statements["here"].items()
            if text.startswith("SELECT") and "waffle_" in text
        }
        assert not selects
        assert not statements["there"]
        # A transaction: the lock and the revision, the row, the history, begin and commit.
        assert sum(statements["here"].values()) == 5 * CHANGES, statements["here"]

        assert redis_server.subscribers() == len(HOSTS)
        with redis_server.client() as client:
            assert len(client.client_list(_type="pubsub")) == len(HOSTS)


def test_a_change_of_100_settings_is_one_transaction_here_and_no_read_there(
    database: CountingServer, redis_server: RedisServer
) -> None:
    """Only the rows that it writes are more, and those go to the server in two batches."""
    with two_hosts(database, redis_server, 4) as both:
        change_through_each(both, first=1, count=2)
        start = database.mark()
        both[0].update({f"S{number:03}": 7 for number in range(100)}, worker=1)
        both[1].wait_until_called_back(7)
        end = database.mark()
        assert not database.statements("there", start, end)
        here = database.statements("here", start, end)
        rows = 2 * 100  # the settings, and the history
        assert Counter(text.split()[0] for text in here) == Counter(
            {"BEGIN": 1, "UPDATE": 1, "DELETE": 1, "INSERT": rows, "COMMIT": 1}
        )


def change_through_each(both: list[Instance], *, first: int, count: int) -> None:
    """Make changes through the first host's workers, each followed by every worker."""
    here, there = both
    for value in range(first, first + count):
        here.update({"S000": value}, worker=1 + value % 2)
        there.wait_until_called_back(value)
        here.wait_until_called_back(value)
