"""Outside uWSGI: of a host's processes one is subscribed, whichever servers they belong to."""

from __future__ import annotations

import contextlib
import os
import signal
from collections import Counter
from collections.abc import Iterator, Mapping

import pytest

from tests.conftest import Apps
from tests.deployments.conftest import of_one_host, writer_elsewhere
from tests.support import RedisServer, wait_until
from tests.support.counting import CountingServer
from tests.support.one_host import Site
from tests.support.other_servers import Gunicorn, Waitress
from tests.support.soak import is_soak, times
from tests.support.waiting import SOON_SECONDS

WORKER_COUNTS = (2, 8, 32) if is_soak() else (2, 8)
CHANGES = times(5, 10)


@contextlib.contextmanager
def site(
    apps: Apps, redis: RedisServer, workers: int, environment: Mapping[str, str] | None = None
) -> Iterator[Site]:
    """Run gunicorn and waitress on one host, each process of which has had a request."""
    worker_class, preload = ("sync", False) if environment is None else ("gthread", True)
    shared = of_one_host(apps, redis, environment or {})
    gunicorn = Gunicorn(shared, worker_class=worker_class, preload=preload, workers=workers)
    waitress = Waitress(shared)
    writer = writer_elsewhere(apps, redis)
    with gunicorn, waitress:
        for server in (gunicorn, waitress):
            server.read_from_each()
        yield Site([gunicorn, waitress], writer, redis)


def test_another_process_takes_over_when_the_listener_is_killed(
    apps: Apps, redis_server: RedisServer
) -> None:
    """Whichever server it belongs to, until one is left; each idle process calls back."""
    with site(apps, redis_server, 3) as running:
        (waitress,) = running.servers[1].process.pids()
        for value in (1, 2, 3):
            listener = running.wait_for_one_listener()
            running.change_elsewhere(value, running.pids)
            os.kill(listener, signal.SIGKILL)
            wait_until(
                lambda gone=listener: gone not in running.pids,  # type: ignore[misc]
                SOON_SECONDS,
                "it has ended",
            )
            if listener == waitress:
                break
        survivor = running.wait_for_one_listener()
        assert survivor != listener
        running.change_elsewhere(9, running.pids)


def test_another_process_takes_over_when_the_listener_is_stopped(
    apps: Apps, redis_server: RedisServer
) -> None:
    """It listens no more when it runs again, and follows like the others."""
    with site(apps, redis_server, 2) as running:
        stopped = running.wait_for_one_listener()
        everyone = running.pids
        os.kill(stopped, signal.SIGSTOP)
        try:
            running.change_elsewhere(1, everyone - {stopped})
            running.change_elsewhere(2, everyone - {stopped})
        finally:
            os.kill(stopped, signal.SIGCONT)
        assert running.wait_for_one_listener() != stopped
        running.change_elsewhere(3, everyone)


@pytest.mark.parametrize("workers", WORKER_COUNTS)
def test_a_change_costs_a_host_one_subscription_and_no_statement(
    apps: Apps, database: CountingServer, redis_server: RedisServer, workers: int
) -> None:
    """Counted at the servers; the processes that do not listen are connected to neither."""
    name = f"with_{workers}"
    database.create_database(name)
    apps.database_uri = database.url_for("elsewhere", name)
    here = {"WAFFLE_DATABASE_URI": database.url_for("here", name)}
    with site(apps, redis_server, workers, here) as running:
        running.wait_for_one_listener()
        everyone = running.pids
        assert len(everyone) == workers + 1
        running.change_elsewhere(1, everyone)
        start = database.mark()
        for value in range(2, 2 + CHANGES):
            running.change_elsewhere(value, everyone)
        statements = Counter(database.statements("here", start, database.mark()))
        assert not statements
        with redis_server.client() as client:
            assert len(client.client_list(_type="pubsub")) == 1
            # The subscription, what it reports by, the writer's, and this one.
            assert len(client.client_list()) <= 5
