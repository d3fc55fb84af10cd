"""What the Redis user of an application must be allowed, which the documentation lists."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest
import redis

from tests.conftest import Apps
from tests.support import RedisServer
from tests.support.listening import Host
from tests.support.places import ROOT
from tests.support.waiting import SOON_SECONDS
from uwsgi_waffle.bus import subscription


def documented_user() -> list[str]:
    """Return the arguments of ACL SETUSER in the documentation."""
    text = (ROOT / "docs" / "recipes.md").read_text().replace("\\\n", "")
    found = re.search(r"(?m)^\$ redis-cli ACL SETUSER (.*)$", text)
    assert found is not None
    return shlex.split(found[1])


def make_user(server: RedisServer, *rules: str) -> str:
    """Make a Redis user by the documentation, except for further rules; return its URL."""
    arguments = [*documented_user(), *rules]
    with server.client() as operator:
        operator.execute_command("ACL SETUSER", *arguments)
        operator.config_resetstat()
    name, password = arguments[0], next(a[1:] for a in arguments if a.startswith(">"))
    return f"redis://{name}:{password}@127.0.0.1:{server.port}"


def refused(server: RedisServer) -> set[str]:
    """Return the commands, keys and channels that a user was refused; but not redis-py's own.

    To name itself to Redis from 7.2 on, redis-py tries a command that it can do without.
    """
    with server.client() as operator:
        found: Any = operator.acl_log()
    return {_text(entry["object"]) for entry in found} - {"client|setinfo"}


def _text(found: str | bytes) -> str:
    return found.decode() if isinstance(found, bytes) else found


def used(server: RedisServer) -> set[str]:
    """Return the commands that a server has executed, as an ACL names them."""
    with server.client() as operator:
        found: Any = operator.info("commandstats")
    return {name.removeprefix("cmdstat_") for name, stats in found.items() if stats["calls"]}


def live_through(apps: Apps, server: RedisServer, url: str) -> None:
    """Run two hosts: everything that an application and its operator do with Redis."""
    here, there = Host(apps, "here", url), Host(apps, "there", url)
    here.listen()
    there.listen()
    server.wait_for_subscribers(2)
    assert here.change(2)
    there.wait_until_serving(2)
    fleet = here.waffle.wait(1, timeout=SOON_SECONDS)
    assert (fleet.total, fleet.applied) == (2, 2)
    status = here.waffle.status()
    assert [host.listener.state for host in status.hosts] == ["live", "live"]
    assert here.state.reports.highest(here.position.lineage) == here.position
    here.wait_for_turns(3)
    apps.close()
    for host in (here, there):
        host.state.reports.retire(host.state.host.host_id, host.position.lineage)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have what happens after seconds of silence happen at once."""
    monkeypatch.setattr(subscription, "PING_AFTER_SECONDS", 0.0)


def test_the_documented_redis_user_can_do_everything_that_is_needed(
    apps: Apps, redis_server: RedisServer
) -> None:
    live_through(apps, redis_server, make_user(redis_server))
    assert refused(redis_server) == set()


def test_the_documented_redis_user_is_allowed_nothing_that_is_not_used(
    apps: Apps, redis_server: RedisServer
) -> None:
    url = make_user(redis_server)
    allowed = {rule[1:] for rule in documented_user() if rule.startswith("+")}
    live_through(apps, redis_server, url)
    assert allowed - used(redis_server) == set()


@pytest.mark.parametrize("command", ["client|setname", "memory|usage"])
def test_a_command_that_only_helps_may_be_refused(
    apps: Apps, redis_server: RedisServer, command: str
) -> None:
    live_through(apps, redis_server, make_user(redis_server, f"-{command}"))
    assert refused(redis_server) == {command}


def test_a_redis_without_the_command_client_is_used(apps: Apps) -> None:
    """As at hosting services that rename what they do not offer."""
    with RedisServer(extra_options=["--rename-command", "CLIENT", ""]) as server:
        live_through(apps, server, server.url)


def test_the_documented_redis_user_reaches_no_other_keys_or_channels(
    redis_server: RedisServer,
) -> None:
    """So an application that is broken into cannot read or spoil what others keep there."""
    url = make_user(redis_server)
    with redis.Redis.from_url(url) as client, client.pubsub() as pubsub:

        def hear_others() -> None:
            pubsub.subscribe("other")
            pubsub.get_message(timeout=SOON_SECONDS)

        for attempt in (
            lambda: client.hset("other", "field", "value"),
            lambda: client.hgetall("other"),
            lambda: client.publish("other", "message"),
            hear_others,
            lambda: client.get("{waffleconf:default}:lineages"),
            client.flushall,
            lambda: client.config_get("*"),
        ):
            with pytest.raises(redis.exceptions.NoPermissionError):
                attempt()
