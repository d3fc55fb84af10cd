"""A process that joins after a proof serves what was proven, although the proof did not know it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import Apps
from tests.support import RedisServer, wait_until
from tests.support.listening import Host
from tests.support.programs import Program
from tests.support.waiting import NEVER_SECONDS, SOON_SECONDS
from uwsgi_waffle import NotConverged
from uwsgi_waffle.host.turns import only_reader
from uwsgi_waffle.process import asking

#: Loads an application, then takes a request for each line and prints the size that it served.
APPLICATION = f"""
import sys
from flask import Flask
from uwsgi_waffle import WaffleConf
from uwsgi_waffle.process import asking
asking.PATIENCE_SECONDS = {SOON_SECONDS}
app = Flask("newcomer", instance_path=sys.argv[1])
app.config.update(
    WAFFLE_DATABASE_URI=f"sqlite:///{{sys.argv[1]}}/waffle.db",
    WAFFLE_SNAPSHOT_PATH=f"{{sys.argv[1]}}/there/snapshot",
    WAFFLE_CONFS={{"SIZE": {{"default": 1}}}},
    WAFFLE_MULTIPROC=True,
    WAFFLE_LISTENER="thread",
    WAFFLE_POLL_SECONDS={NEVER_SECONDS},
    WAFFLE_REDIS_URL=sys.argv[2],
)
waffle = WaffleConf(app)
app.add_url_rule("/", view_func=lambda: str(waffle.settings.SIZE))
print("loaded", flush=True)
for line in sys.stdin:
    if line.strip() == "end":
        break
    print(app.test_client().get("/").text, flush=True)
"""

#: The same without a turn of its listener.
LATE = f"""
import sys, time
from flask import Flask
from uwsgi_waffle import WaffleConf
from uwsgi_waffle.process import asking
asking.PATIENCE_SECONDS = {SOON_SECONDS}
app = Flask("newcomer")
app.config.update(
    WAFFLE_DATABASE_URI=sys.argv[1],
    WAFFLE_SNAPSHOT_PATH=sys.argv[2],
    WAFFLE_CONFS={{"SIZE": {{"default": 1}}}},
    WAFFLE_MULTIPROC=True,
    WAFFLE_LISTENER="thread",
    WAFFLE_POLL_SECONDS={NEVER_SECONDS},
    WAFFLE_REDIS_URL=sys.argv[3],
)
waffle = WaffleConf(app)
app.extensions["waffleconf"].loop.run = lambda *_: time.sleep({NEVER_SECONDS})
app.add_url_rule("/", view_func=lambda: str(waffle.settings.SIZE))
print("loaded", flush=True)
for line in sys.stdin:
    print(app.test_client().get("/").text, flush=True)
"""


def test_the_first_request_after_a_host_had_no_process_compares_with_sql(
    apps: Apps, redis_server: RedisServer
) -> None:
    """As when gunicorn reloads: the new workers load before the old ones end, and serve later.

    Between them the host has no process, so a proof rightly does not wait for it.
    """
    here = Host(apps, "here", redis_server)
    here.listen(redis_server)
    arguments = (APPLICATION, apps.directory, redis_server.url)
    with Program(*arguments) as before:
        assert before.read() == "loaded"
        here.change(2)
        assert before.ask() == "2"
        redis_server.wait_for_subscribers(2)
        with Program(*arguments) as newcomer:
            assert newcomer.read() == "loaded"
            before.send("end")
            before.process.wait(SOON_SECONDS)
            here.change(3)
            assert here.waffle.wait(2).total == 1, "the host that has no process is not known"
            assert newcomer.ask() == "3"


def request_to(host: Host) -> int:
    """Return what a request to a host is served."""
    with host.app.test_request_context():
        return int(host.waffle.settings.SIZE)


def listens_late(host: Host, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Keep the listener of a host from its first turn until the returned function is called."""
    may_listen = threading.Event()
    run = host.state.loop.run

    def wait_and_run(*arguments: Any) -> None:
        may_listen.wait(SOON_SECONDS)
        run(*arguments)

    monkeypatch.setattr(host.state.loop, "run", wait_and_run)
    return may_listen.set


def test_a_host_that_serves_before_its_listener_has_turned_is_known_to_a_proof(
    apps: Apps, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when uWSGI reloads: the workers serve at once, and the mule listens a moment later."""
    here, there = Host(apps, "here", redis_server), Host(apps, "there", redis_server)
    here.listen(redis_server)
    here.change(2)
    monkeypatch.setattr(asking, "PATIENCE_SECONDS", SOON_SECONDS)
    may_listen = listens_late(there, monkeypatch)
    assert request_to(there) == 2
    here.change(3)
    with pytest.raises(NotConverged, match="Redis holds no report of it"):
        here.waffle.wait(2, timeout=0.2)
    may_listen()
    assert here.waffle.wait(2).total == 2
    assert request_to(there) == 3


def test_a_listener_compares_with_sql_after_its_host_is_known(
    apps: Apps, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is committed before, and proven without the host, is what its first request sees."""
    here, there = Host(apps, "here", redis_server), Host(apps, "there", redis_server)
    here.change(2)
    register, is_known = there.state.registry.register, threading.Event()

    def commit_and_register(*arguments: Any) -> None:
        if not is_known.is_set():
            here.commit(3)
        register(*arguments)
        is_known.set()

    monkeypatch.setattr(there.state.registry, "register", commit_and_register)
    there.listen()
    there.wait_until_listener("live")
    assert is_known.wait(SOON_SECONDS)
    assert request_to(there) == 3


def test_a_request_waits_for_another_process_that_makes_its_host_known(
    apps: Apps, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = Host(apps, "here", redis_server), Host(apps, "there", redis_server)
    here.change(2)
    monkeypatch.setattr(asking, "PATIENCE_SECONDS", SOON_SECONDS)
    may_listen = listens_late(there, monkeypatch)
    served: list[int] = []
    asks = threading.Thread(target=lambda: served.append(request_to(there)))
    with only_reader(there.state.host, wait_seconds=0):
        asks.start()
        asks.join(0.1)
        here.commit(3)
    asks.join(SOON_SECONDS)
    may_listen()
    assert served == [3]


def test_a_host_that_becomes_known_while_a_commit_is_waited_for_is_waited_for(
    apps: Apps, redis_server: RedisServer
) -> None:
    here = Host(apps, "here", redis_server)
    here.listen(redis_server)
    here.change(2)
    read = here.state.registry.read

    def read_before_more_happens() -> Any:
        hosts = read()
        if here.state.store.peek().revision == 1:
            here.state.registry.register("ab" * 8, "elsewhere")
            here.commit_and_announce()
        return hosts

    here.state.registry.read = read_before_more_happens  # type: ignore[method-assign]
    with pytest.raises(NotConverged, match="elsewhere"):
        here.waffle.wait(2, timeout=0.5)


def test_a_host_that_ends_does_not_unlist_what_has_joined_it_meanwhile(
    apps: Apps, redis_server: RedisServer
) -> None:
    here, there = Host(apps, "here", redis_server), Host(apps, "there", redis_server)
    here.change(2)
    there.listen(redis_server)
    wait_until(there.state.registry.read, SOON_SECONDS, "the host is registered")
    url, path = there.state.config.database_uri, there.state.host.path
    with Program(LATE, url, path, redis_server.url) as newcomer:
        assert newcomer.read() == "loaded"
        forget = there.state.registry.forget

        def forget_as_one_joins(host_id: str) -> None:
            newcomer.send()
            wait_until(there.state.host.slots.living, SOON_SECONDS, "one has joined")
            newcomer.has_printed(within_seconds=0.2)  # not before it is forgotten
            forget(host_id)

        there.state.registry.forget = forget_as_one_joins  # type: ignore[method-assign]
        there.state.retire()
        assert newcomer.read() == "2"
        assert [host.id for host in here.state.registry.read()] == [there.state.host.host_id]
