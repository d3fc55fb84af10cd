"""What a program that can read Redis learns: positions, names and changes, never a secret."""

from __future__ import annotations

from typing import Any

from tests.conftest import Apps
from tests.support import RedisServer, wait_until
from tests.support.listening import Host
from tests.support.waiting import SOON_SECONDS

VALUE = "swordfish"


def test_redis_sees_no_secret_and_no_key(apps: Apps, redis_server: RedisServer) -> None:
    """Neither in what it holds nor in what passes through; refused values included."""
    confs = {"NAME": {"default": "Waffle", "secret": True}}
    strict = {"NAME": {"default": "Waffle", "secret": True, "max_length": 8}}
    here = Host(apps, "here", redis_server, confs=confs)
    there = Host(apps, "there", redis_server, confs=strict)
    with redis_server.client() as client, client.pubsub() as overheard:
        overheard.psubscribe("*")
        for host in (here, there):
            host.listen()
        redis_server.wait_for_subscribers(2)
        assert here.waffle.update({"NAME": VALUE}).announced
        wait_until(lambda: there.position.revision == 1, SOON_SECONDS, "the change arrives")
        seen: list[Any] = []

        def refusal_is_seen() -> bool:
            seen.append(overheard.get_message(timeout=0.1))
            return b'refused_count":1' in str(seen).encode()

        wait_until(refusal_is_seen, SOON_SECONDS, "the refusal is reported")
        for key in client.scan_iter():
            is_hash = client.type(key) == b"hash"
            seen.append((key, client.hgetall(key) if is_hash else client.zrange(key, 0, -1)))
    text = str(seen)
    assert here.state.host.host_id in text
    assert VALUE not in text
    assert [key for key in here.state.host.keys if key in text] == []
