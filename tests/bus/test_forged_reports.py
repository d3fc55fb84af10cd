"""Which entries and acknowledgements in Redis are believed, and what the others cost."""

from __future__ import annotations

import json
import re
from typing import Any

import pydantic_core
import pytest
import redis

from tests.bus.conftest import (
    CHANNEL,
    DETAILS,
    HIGHEST,
    HOSTS,
    KEY,
    LINEAGE,
    LINEAGES,
    OLD_KEY,
    OTHER_ID,
    OTHER_KEY,
    OTHER_LINEAGE,
    POSITION,
    acknowledged,
    commands,
    entry_of,
    host_at,
    ids,
    reports_at,
    sealed,
)
from tests.support import RedisServer, wait_until
from tests.support.waiting import SOON_SECONDS
from uwsgi_waffle.bus import reports, signing
from uwsgi_waffle.bus.client import BusUnavailable
from uwsgi_waffle.bus.fleet import HostStatus
from uwsgi_waffle.bus.reports import HostReports, encode_host

GOOD = encode_host(host_at(), 0.0)
MALFORMED: dict[str, str] = {
    "empty": "",
    "not JSON": "waffle",
    "deep JSON": "[" * 100_000,
    "deep and closed": "[" * 50_000 + "]" * 50_000,
    "Infinity": GOOD.replace('"reported_at": 0.0', '"reported_at": Infinity'),
    "NaN": GOOD.replace('"reported_at": 0.0', '"reported_at": NaN'),
    "half of a surrogate pair": GOOD.replace('"web"', '"\\ud800"'),
    "a number of 5000 digits": GOOD.replace('"served": 3', '"served": ' + "9" * 5000),
    "a revision that is a text": GOOD.replace('"revision": 7', '"revision": "seven"'),
    "a list": "[]",
    "fields missing": '{"id": "aaaaaaaaaaaaaaaa"}',
    "oversized": GOOD + " " * reports.MAX_ENTRY_BYTES,
}


@pytest.mark.parametrize("is_signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_entry_is_ignored_and_counted(
    client: redis.Redis, ours: HostReports, text: str, *, is_signed: bool
) -> None:
    """Signed ones can be made by a release with a bug only, and do no harm either."""
    ours.put(host_at(host_id=OTHER_ID))
    for key in (HOSTS, DETAILS):
        client.hset(key, "a" * 16, sealed(text) if is_signed else text)
    for in_full in (False, True):
        found = ours.read(LINEAGE, in_full=in_full)
        assert (ids(found.hosts), found.ignored) == ([OTHER_ID], 1)


def test_an_entry_that_is_not_signed_by_our_key_is_ignored_and_counted(
    client: redis.Redis, ours: HostReports
) -> None:
    """Nor one that is signed by it, but stands for another host."""
    ours.put(host_at(host_id=OTHER_ID))
    host, host_id = host_at(), "a" * 16
    good = entry_of(host, client)
    signature, _, text = good.partition(" ")
    for forged in (
        text,
        f" {text}",
        f"{signature} {text.replace('web', 'bad')}",
        f"{signature[:-1]} {text}",
        f"{'ä' * 64} {text}",
        f"{',' * 1000} {text}",
        entry_of(host, client, key=OTHER_KEY),
        entry_of(host_at(host_id=OTHER_ID), client),
    ):
        client.hset(HOSTS, host_id, forged)
        found = ours.read(LINEAGE)
        assert (ids(found.hosts), found.ignored) == ([OTHER_ID], 1), forged
    client.hset(HOSTS, host_id, good)
    assert ids(ours.read(LINEAGE).hosts) == [host_id, OTHER_ID]


def test_while_keys_are_rotated_either_key_will_do(redis_server: RedisServer) -> None:
    keys = ([OLD_KEY], [KEY, OLD_KEY], [KEY])
    before, during, after = (reports_at(redis_server.url, signing=lambda _, k=k: k) for k in keys)  # type: ignore[misc]
    for sender, host_id in ((before, "1" * 16), (during, "2" * 16), (after, "3" * 16)):
        sender.put(host_at(host_id=host_id))
    for reader, known in ((before, "12"), (during, "123"), (after, "23")):
        found = reader.read(LINEAGE)
        assert [host.id[0] for host in found.hosts] == list(known)
        assert found.ignored == 3 - len(known)


@pytest.mark.parametrize("kind", ["SET", "LPUSH", "SADD"])
@pytest.mark.parametrize("key", [HOSTS, HIGHEST, LINEAGES])
def test_a_key_of_another_type_is_a_redis_that_does_not_accept_reports(
    client: redis.Redis, ours: HostReports, key: str, kind: str
) -> None:
    client.execute_command(kind, key, "x")  # type: ignore[no-untyped-call]
    with pytest.raises(BusUnavailable, match="WRONGTYPE"):
        ours.put(host_at())
    with pytest.raises(BusUnavailable, match="WRONGTYPE"):
        ours.highest(LINEAGE) if key == HIGHEST else ours.read(LINEAGE)


@pytest.mark.parametrize("entries", [200, 20_000])
def test_the_cost_of_forged_hosts_is_linear(
    client: redis.Redis, ours: HostReports, monkeypatch: pytest.MonkeyPatch, entries: int
) -> None:
    """One signature is computed for each, in as many commands, and none is parsed."""
    ours.put(host_at())
    _, _, text = entry_of(host_at(), client).partition(" ")
    forged = {f"{number:016}": f"{'0' * 64} {text}" for number in range(entries)}
    client.hset(HOSTS, items=[part for entry in forged.items() for part in entry])
    digests, parsed, digest = [0], [0], signing._digest  # noqa: SLF001

    def counted_digest(key: str, signed: str) -> str:
        digests[0] += 1
        return digest(key, signed)

    def counted_from_json(entry: str, **options: Any) -> object:
        parsed[0] += 1
        return pydantic_core.from_json(entry, **options)

    monkeypatch.setattr(signing, "_digest", counted_digest)
    monkeypatch.setattr(reports, "from_json", counted_from_json)
    before = commands(client)
    found = ours.read(LINEAGE)
    assert (len(found.hosts), found.ignored) == (1, entries)
    assert (digests, parsed) == ([entries + 1], [1])
    assert commands(client) - before == 6  # two sizes, the hash, the lineages, the time; INFO


@pytest.mark.parametrize(("key", "limit"), [(HOSTS, "MAX_HASH_BYTES"), (HIGHEST, "MAX_SET_BYTES")])
def test_what_is_larger_than_all_reports_is_not_read(
    client: redis.Redis,
    ours: HostReports,
    monkeypatch: pytest.MonkeyPatch,
    key: str,
    limit: str,
) -> None:
    ours.put(host_at())
    monkeypatch.setattr(reports, limit, 10_000)
    member = "x" * 10_000
    client.hset(HOSTS, "x", member) if key == HOSTS else client.zadd(key, {member: 1})
    client.config_resetstat()
    with pytest.raises(BusUnavailable, match=re.escape(f"redis-cli DEL '{key}'")):
        ours.read(LINEAGE) if key == HOSTS else ours.highest(LINEAGE)
    assert not {"cmdstat_hgetall", "cmdstat_zrevrange"} & client.info("commandstats").keys()


def test_an_acl_that_does_not_allow_to_ask_for_sizes_is_enough(own_redis: RedisServer) -> None:
    with own_redis.client() as operator:
        operator.execute_command("ACL SETUSER", "app", "on", ">app", "~*", "&*", "+@all", "-memory")
    ours = reports_at(f"redis://app:app@127.0.0.1:{own_redis.port}/0")
    ours.put(host_at())
    assert len(ours.read(LINEAGE).hosts) == 1
    assert ours.highest(LINEAGE) == POSITION


def test_a_forged_highest_position_is_ignored(client: redis.Redis, ours: HostReports) -> None:
    ours.put(host_at())
    huge = json.dumps([LINEAGE, 2**62, "f" * 16])
    for forged in (
        huge,
        f"{'0' * 64} {huge}",
        sealed(huge, OTHER_KEY),
        sealed(json.dumps([OTHER_LINEAGE, 2**62, "f" * 16])),
        "[" * 10_000,
    ):
        client.zadd(HIGHEST, {forged: float("inf")})
    assert ours.highest(LINEAGE) == POSITION


def test_what_is_forged_or_replayed_is_not_an_acknowledgement(
    ours: HostReports, client: redis.Redis
) -> None:
    with acknowledged(ours, client) as next_ids:
        for forged in (
            "[" * 100_000,
            GOOD,
            entry_of(host_at(), client, key=OTHER_KEY),
            entry_of(host_at(), client, age=reports.SILENT_SECONDS + 1),
            sealed(MALFORMED["NaN"]),
        ):
            client.publish(CHANNEL, forged)
        ours.put(host_at(host_id=OTHER_ID))
        assert next_ids() == [OTHER_ID]


def test_a_flood_of_what_is_no_acknowledgement_is_received_in_portions(
    ours: HostReports, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So `wait` ends in time, however much another program publishes there."""
    parsed, decode = [0], reports.decode_host
    monkeypatch.setattr(reports, "MAX_AT_ONCE", 50)

    def publish() -> None:
        pipeline = client.pipeline(transaction=False)
        for _ in range(10):
            pipeline.publish(CHANNEL, "not ours")
        pipeline.execute()

    def decode_while_more_come(*arguments: Any) -> HostStatus | None:
        parsed[0] += 1
        if parsed[0] < 500:
            publish()
        return decode(*arguments)

    monkeypatch.setattr(reports, "decode_host", decode_while_more_come)
    with ours.acknowledgements(LINEAGE) as receive:
        publish()
        wait_until(lambda: receive(0.1) or parsed[0], SOON_SECONDS, "some are received")
    assert parsed[0] <= 50
