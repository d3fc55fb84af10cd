"""One contract for every server outside uWSGI, and for workers that take jobs.

A change reaches each process, idle ones too; one process of the host is subscribed; a change costs
no read of SQL; when the listener is killed another process listens; and the end leaves nothing.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

import pytest

from tests.conftest import Apps
from tests.deployments.conftest import of_one_host, writer_elsewhere
from tests.support import RedisServer, wait_until
from tests.support.counting import CountingServer
from tests.support.job_workers import Celery, Rq
from tests.support.one_host import Site
from tests.support.other_servers import Granian, Hypercorn, Uvicorn, Waitress, WebServer
from tests.support.soak import is_soak
from tests.support.waiting import SOON_SECONDS

Make = Callable[[Mapping[str, str], int], WebServer]

#: The name of a server -> the package that it needs beside those of the tests, and how it is made.
SERVERS: dict[str, tuple[str, Make]] = {
    "granian-fork": ("granian", lambda e, n: Granian(e, method="fork", workers=n)),
    "granian-spawn": ("granian", lambda e, n: Granian(e, method="spawn", workers=n)),
    "uvicorn": ("uvicorn", lambda e, n: Uvicorn(e, workers=n)),
    "hypercorn": ("hypercorn", lambda e, n: Hypercorn(e, app="tests.apps.asgi:app", workers=n)),
    "hypercorn-wsgi": (
        "hypercorn",
        lambda e, n: Hypercorn(e, app="wsgi:tests.apps.whole_numbers:app", workers=n),
    ),
    "celery": (
        "celery",
        lambda e, n: Celery(e, broker_url=e["TEST_BROKER_URL"], workers=n),
    ),
    "rq": ("rq", lambda e, n: Rq(e, broker_url=e["TEST_BROKER_URL"], workers=n)),
}
WORKER_COUNTS = (2, 8, 32)
CHANGES = 5
#: A server with 32 workers takes long to start them all, on two processors.
WORKERS_SECONDS = 8 * SOON_SECONDS


@contextlib.contextmanager
def site(
    name: str, workers: int, apps: Apps, redis: RedisServer, environment: Mapping[str, str]
) -> Iterator[Site]:
    """Run a server, each process of which has had a request or could have had a job."""
    package, make = SERVERS[name]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed: pip install --group servers")
    shared = of_one_host(apps, redis, environment)
    writer = writer_elsewhere(apps, redis)
    with make(shared, workers) as server:
        server.patience_seconds = WORKERS_SECONDS
        running = Site([server], writer, redis)
        wait_for_all(running)
        yield running


def wait_for_all(running: Site) -> None:
    """Have every process of the server follow."""
    server = running.servers[0]

    def all_follow() -> bool:
        server.read_from_each()
        followers = running.pids & {*server.process.pids()}
        return len(followers) >= server.workers

    wait_until(all_follow, WORKERS_SECONDS, "each worker follows")


def kill_the_listener(running: Site) -> None:
    """Kill it, see another process listen, and have the server whole again."""
    server = running.servers[0]
    listener = running.wait_for_one_listener()
    os.kill(listener, signal.SIGKILL)
    wait_until(lambda: listener not in running.pids, SOON_SECONDS, "it has ended")
    if isinstance(server, Hypercorn):  # ends where one of its workers does
        wait_until(lambda: not server.process.running, SOON_SECONDS, "hypercorn has ended")
        server.restart()
    assert running.wait_for_one_listener() != listener
    wait_for_all(running)


def end(server: WebServer) -> None:
    """End a server as its operator would, and see that it leaves nothing."""
    server.process.send(signal.SIGTERM)
    wait_until(lambda: not server.process.running, WORKERS_SECONDS, f"{server.name} has ended")
    assert server.process.status == 0
    wait_until(lambda: not server.process.pids(), SOON_SECONDS, "so have all its processes")
    assert "Traceback" not in server.log()


def known_hosts(redis: RedisServer) -> list[object]:
    """Return the keys of Redis under which hosts are waited for."""
    with redis.client() as client:
        return [*client.scan_iter("*:hosts")]


@pytest.mark.timeout(60)
def test_granian_alone_keeps_the_contract(apps: Apps, redis_server: RedisServer) -> None:
    """The one of these servers that every run of the tests has."""
    with site("granian-fork", 2, apps, redis_server, {}) as running:
        running.wait_for_one_listener()
        running.change_elsewhere(1)
        kill_the_listener(running)
        running.change_elsewhere(2)
        end(running.servers[0])
    assert known_hosts(redis_server) == []


@pytest.mark.skipif(not is_soak(), reason="`make soak` runs the other servers, for minutes")
@pytest.mark.parametrize("workers", WORKER_COUNTS)
@pytest.mark.parametrize("name", SERVERS)
def test_the_contract_beside_another_server(
    apps: Apps, database: CountingServer, redis_server: RedisServer, name: str, workers: int
) -> None:
    """The processes of both share one subscription, and a change costs them no statement."""
    database_name = f"{name}_{workers}".replace("-", "_")
    database.create_database(database_name)
    apps.database_uri = database.url_for("elsewhere", database_name)
    with contextlib.ExitStack() as stack:
        broker = stack.enter_context(RedisServer())
        here = {
            "WAFFLE_DATABASE_URI": database.url_for("here", database_name),
            "TEST_BROKER_URL": broker.url,
        }
        running = stack.enter_context(site(name, workers, apps, redis_server, here))
        server = running.servers[0]
        first = running.wait_for_one_listener()
        assert first in server.process.pids()
        waitress = stack.enter_context(Waitress(server.environment))
        waitress.read()
        count = workers + 1
        wait_until(lambda: len(running.pids) == count, SOON_SECONDS, "no other one follows")
        everyone = running.pids
        running.change_elsewhere(1, everyone)
        start = database.mark()
        for value in range(2, 2 + CHANGES):
            running.change_elsewhere(value, everyone)
        assert not Counter(database.statements("here", start, database.mark()))
        with redis_server.client() as client:
            assert len(client.client_list(_type="pubsub")) == 1
            # The subscription, what it reports by, the writer's, and this one.
            assert len(client.client_list()) <= 5
        kill_the_listener(running)
        running.change_elsewhere(100)
        assert {answer["values"]["S000"] for answer in server.read_from_each()} == {100}
        end(server)
        running.change_elsewhere(101, {*waitress.process.pids()})
        waitress.process.send(signal.SIGINT)
        wait_until(lambda: not waitress.process.running, SOON_SECONDS, "waitress has ended")
        assert known_hosts(redis_server) == []
