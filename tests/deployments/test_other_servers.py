"""waitress and `flask run`: one process serves, and exactly one listens."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.support import RedisServer, wait_until
from tests.support.other_servers import FlaskRun, Waitress, WebServer
from tests.support.waiting import NEVER_SECONDS, SOON_SECONDS

PROMPT_SECONDS = 10.0

Make = Callable[[Mapping[str, str]], WebServer]
SERVERS: dict[str, Make] = {
    "waitress": Waitress,
    "flask": lambda environment: FlaskRun(environment, options=["--no-reload"]),
    "flask-reloader": lambda environment: FlaskRun(environment, options=["--reload"]),
    "flask-debug": lambda environment: FlaskRun(environment, options=["--debug"]),
}


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest, redis_server: RedisServer) -> Iterator[WebServer]:
    """Give a server that has had a request."""
    environment = {
        "WAFFLE_REDIS_URL": redis_server.url,
        "WAFFLE_REDIS_CHANNEL": request.param,
        "WAFFLE_POLL_SECONDS": str(NEVER_SECONDS),
    }
    with SERVERS[request.param](environment) as running:
        yield running


def test_one_process_listens_and_serves_each_change_at_once(
    server: WebServer, redis_server: RedisServer
) -> None:
    """One subscription, counted at Redis, though the reloader's parent loads the app too."""
    channel = server.environment["WAFFLE_REDIS_CHANNEL"]
    redis_server.wait_for_subscribers(1, channel)
    for value in range(1, 21):
        done = server.update({"S000": value})
        answer = server.read()
        assert (answer["revision"], answer["values"]["S000"]) == (done["revision"], value)
        assert answer["config"]["S000"] == value
    wait_until(
        lambda: server.journal.pids(20) == {server.read()["pid"]}, SOON_SECONDS, "it calls back"
    )
    assert redis_server.subscribers(channel) == 1


def test_a_listener_does_not_delay_the_end(server: WebServer) -> None:
    """The server ends when it is asked to, while its listener listens."""
    server.process.send(signal.SIGINT)
    wait_until(lambda: not server.process.running, PROMPT_SECONDS, "the server ended")


def test_the_reloader_leaves_one_listener_after_a_reload(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    """A changed file restarts the serving process: it follows, and its predecessor is gone."""
    watched = tmp_path / "watched"
    watched.write_text("1")
    environment = {"WAFFLE_REDIS_URL": redis_server.url, "WAFFLE_REDIS_CHANNEL": "again"}
    options = ["--reload", "--extra-files", str(watched)]
    with FlaskRun(environment, options=options) as server:
        before = server.read()["pid"]
        watched.write_text("22")
        wait_until(lambda: server.read()["pid"] != before, SOON_SECONDS, "it has reloaded")
        redis_server.wait_for_subscribers(1, "again")
        server.update({"S000": 5})
        assert server.read()["values"]["S000"] == 5
