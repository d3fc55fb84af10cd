"""Each way to run uWSGI that is meant to work: every worker right, busy or idle."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.support import RedisServer
from tests.support.instance import BOOT, ELECTED, LAZY, Instance, assert_serves
from tests.support.uwsgi_server import Options

THREADS: Options = {"threads": 4}
GEVENT: Options = {"gevent": 20}
EARLY: Options = {**GEVENT, "gevent-early-monkey-patch": True}
LATE: Options = {**GEVENT, "gevent-monkey-patch": True}
UPDATES = 20


@dataclass(frozen=True)
class Deployment:
    """Options of uWSGI, and what follows from them.

    :ivar place: where the listener is that a worker depends on
    :ivar environment: what its listener, or its candidate for one, runs in
    :ivar subscriptions: how many listen to Redis
    :ivar separate: whether each worker may have a socket of its own; where they share the lock of
        thunder-lock, one that waits for its own keeps the others from theirs
    """

    options: tuple[Options, ...]
    place: str = "mule"
    environment: str = "NoneType"
    subscriptions: int = 1
    separate: bool = True


def elected(*options: Options, environment: str = "ThreadEnvironment") -> Deployment:
    """Return a deployment without a mule."""
    return Deployment((ELECTED, *options), "worker", environment)


DEPLOYMENTS = {
    "prefork": Deployment((BOOT,)),
    "lazy": Deployment((BOOT, LAZY)),
    "threads": Deployment((BOOT, THREADS)),
    "lazy-threads": Deployment((BOOT, LAZY, THREADS)),
    "thunder-lock": Deployment((BOOT, {"thunder-lock": True}), separate=False),
    "gevent-early": Deployment((BOOT, EARLY)),
    "gevent-late": Deployment((BOOT, LATE)),
    "gevent-unpatched": Deployment((BOOT, GEVENT)),
    "gevent-lazy-early": Deployment((BOOT, LAZY, EARLY)),
    "elected": elected(),
    "elected-lazy": elected(LAZY),
    "elected-threads": elected(THREADS),
    "elected-fork-hooks": elected({"py-call-uwsgi-fork-hooks": True}),
    "elected-gevent-early": elected(EARLY, environment="GreenletEnvironment"),
    "elected-gevent-late": elected(LATE, environment="GreenletEnvironment"),
    "elected-gevent-lazy-late": elected(LAZY, LATE, environment="GreenletEnvironment"),
    "elected-gevent-unpatched": elected(GEVENT),
    "init-alone": Deployment(({"mule": "waffle"},)),
    "init-alone-elected": Deployment((), "worker", "ThreadEnvironment"),
    "init-alone-lazy": Deployment((LAZY,), "thread", "ThreadEnvironment"),
}
if sys.version_info < (3, 13):
    # Later it aborts every process of uWSGI, with or without us; see test_findings.py.
    DEPLOYMENTS["osafterfork"] = Deployment((BOOT, {"py-call-osafterfork": True}))


@pytest.fixture(scope="module", params=DEPLOYMENTS)
def deployment(request: pytest.FixtureRequest) -> Deployment:
    """Give one way to run uWSGI after the other."""
    return DEPLOYMENTS[request.param]


@pytest.fixture(scope="module")
def instance(deployment: Deployment, shared_redis: RedisServer) -> Iterator[Instance]:
    """Give a running instance of the deployment, with three workers."""
    with Instance(
        *deployment.options,
        workers=3,
        redis=shared_redis,
        separate=deployment.separate,
    ) as running:
        yield running


def test_every_worker_serves_each_update_at_once(instance: Instance) -> None:
    """Updates through random workers, each followed by a read on every worker."""
    instance.assert_right(UPDATES)


def test_idle_workers_call_back_after_an_update_by_a_worker(instance: Instance) -> None:
    """Without a request, each worker runs its callbacks with the last value."""
    instance.wait_until_called_back(instance.set_all())


def test_idle_workers_call_back_after_an_update_on_another_host(
    instance: Instance, deployment: Deployment
) -> None:
    """Redis, one listener of this instance, and its signal reach every idle worker."""
    instance.wait_for_subscriptions(deployment.subscriptions)
    instance.follow_elsewhere(1001, 1002, 1003)
    for answer in instance.read_each():
        assert_serves(answer, 1003)


def test_the_listener_is_where_it_should_be_and_nowhere_else(
    instance: Instance, deployment: Deployment
) -> None:
    """One subscription for the instance, in the mule or in one elected worker."""
    states = instance.states()
    assert {state["place"] for state in states} == {deployment.place}
    assert {state["environment"] for state in states} == {deployment.environment}
    assert instance.subscriptions == deployment.subscriptions


def test_the_log_holds_no_failure(instance: Instance) -> None:
    """No traceback, no dead process, no signal that found no room."""
    assert instance.count_in_log("Traceback|DAMN|OOOPS|SIGNAL QUEUE IS FULL|segfault") == 0
