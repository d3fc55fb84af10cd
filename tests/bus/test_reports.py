"""What hosts report to each other: who is believed, for how long, and at what cost."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

import pydantic_core
import pytest
import redis
from redis.cluster import RedisCluster

from tests.bus.conftest import (
    KEY,
    LINEAGE,
    OLD_KEY,
    OTHER_KEY,
    OTHER_LINEAGE,
    POSITION,
    host_at,
    process_at,
    refusing,
    reports_at,
)
from tests.support import RedisServer, wait_until
from tests.support.redis_kinds import ClusterServer, cluster_of_two
from tests.support.waiting import SOON_SECONDS
from uwsgi_waffle.bus import reports, signing
from uwsgi_waffle.bus.client import BusUnavailable
from uwsgi_waffle.bus.fleet import HostStatus
from uwsgi_waffle.bus.reports import HostReports, encode_host
from uwsgi_waffle.bus.signing import sign
from uwsgi_waffle.sql.hosts import FORGET_SECONDS
from uwsgi_waffle.values.position import NOWHERE, Position

PREFIX = "{waffleconf:default}"
HOSTS, DETAILS = f"{PREFIX}:{LINEAGE}:hosts", f"{PREFIX}:{LINEAGE}:details"
HIGHEST, LINEAGES = f"{PREFIX}:{LINEAGE}:highest", f"{PREFIX}:lineages"
CHANNEL = f"{PREFIX}:{LINEAGE}:reports"
OTHER_ID = "b" * 16


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    """Give a client that may write anything."""
    with redis_server.client() as made:
        yield made


@pytest.fixture
def ours(redis_server: RedisServer) -> HostReports:
    """Give the reports of our database."""
    return reports_at(redis_server.url)


def sealed(text: str, key: str = KEY) -> str:
    """Return an entry that is signed."""
    return f"{sign([key], text)} {text}"


def entry_of(host: HostStatus, client: Any, *, age: float = 0.0, key: str = KEY) -> str:
    """Return the entry of a host that reported some seconds ago."""
    seconds, microseconds = client.time()
    return sealed(encode_host(host, seconds + microseconds / 1e6 - age), key)


def ids(hosts: tuple[HostStatus, ...]) -> list[str]:
    """Return the ids of hosts."""
    return [host.id for host in hosts]


# -- what is reported ---------------------------------------------------------------------------


def test_a_report_comes_back_in_summary_and_in_full(ours: HostReports) -> None:
    processes = process_at(), process_at(pid=101), refusing(pid=102)
    host = host_at(served=2, exceptions=processes[2:], processes=processes, fault="it rains")
    ours.put(host)
    for in_full, expected in ((False, replace(host, processes=())), (True, host)):
        found = ours.read(LINEAGE, in_full=in_full)
        assert (found.ignored, found.other_lineages) == (0, ())
        (one,) = found.hosts
        assert 0 <= one.reported_seconds_ago < SOON_SECONDS
        assert not one.is_silent
        assert replace(one, reported_at=0.0, reported_seconds_ago=0.0) == expected


def test_a_summary_names_few_processes_and_counts_the_rest(ours: HostReports) -> None:
    exceptions = tuple(process_at(NOWHERE, pid) for pid in range(100, 120))
    ours.put(host_at(following=20, served=0, exceptions=exceptions))
    (found,) = ours.read(LINEAGE).hosts
    assert (found.following, found.served) == (20, 0)
    assert found.exceptions == exceptions[: reports.MAX_EXCEPTIONS]


def test_1024_processes_that_all_refuse_a_value_are_reported(ours: HostReports) -> None:
    processes = tuple(refusing(pid=pid) for pid in range(1024))
    ours.put(host_at(following=1024, served=0, exceptions=processes, processes=processes))
    found = ours.read(LINEAGE, in_full=True)
    assert found.ignored == 0
    assert found.hosts[0].processes == processes


def test_hosts_are_in_order_of_their_names(ours: HostReports) -> None:
    for number, name in enumerate(("b", "c", "a")):
        ours.put(host_at(host_id=f"{number}" * 16, name=name))
    assert [host.name for host in ours.read(LINEAGE).hosts] == ["a", "b", "c"]


def test_a_host_without_a_position_or_a_key_reports_nothing(
    redis_server: RedisServer, client: redis.Redis, ours: HostReports
) -> None:
    ours.put(host_at(NOWHERE))
    reports_at(redis_server.url, signing=lambda _lineage: ()).put(host_at())
    assert client.keys() == []


def test_a_retired_host_is_gone(client: redis.Redis, ours: HostReports) -> None:
    ours.put(host_at())
    ours.put(host_at(host_id=OTHER_ID))
    ours.retire("a" * 16, LINEAGE)
    assert (
        ids(ours.read(LINEAGE).hosts) == ids(ours.read(LINEAGE, in_full=True).hosts) == [OTHER_ID]
    )
    assert client.hkeys(DETAILS) == [OTHER_ID.encode()]


# -- how old it is ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("age", "is_silent"), [(0.0, False), (3.0, False), (5.0, True), (290.0, True), (-5.0, True)]
)
def test_a_host_that_has_not_reported_lately_is_silent(
    client: redis.Redis, ours: HostReports, age: float, *, is_silent: bool
) -> None:
    """One from the future, too: Redis's clock was set back, and the host may be gone."""
    client.hset(HOSTS, "a" * 16, entry_of(host_at(), client, age=age))
    (found,) = ours.read(LINEAGE).hosts
    assert found.is_silent == is_silent
    assert abs(found.reported_seconds_ago - abs(age)) < 1.0


def test_hosts_that_have_been_silent_for_long_are_forgotten_at_once(
    client: redis.Redis, ours: HostReports
) -> None:
    ours.put(host_at(host_id=OTHER_ID))
    for number in range(50):
        host = host_at(host_id=f"{number:016}")
        client.hset(HOSTS, host.id, entry_of(host, client, age=FORGET_SECONDS + 1))
    before = commands(client)
    found = ours.read(LINEAGE)
    assert commands(client) - before < 15
    assert (ids(found.hosts), found.ignored) == ([OTHER_ID], 0)
    assert client.hkeys(HOSTS) == [OTHER_ID.encode()]


def commands(client: redis.Redis) -> int:
    """Return how many commands a server has run so far."""
    stats: Any = client.info("commandstats")
    return sum(stat["calls"] for stat in stats.values())


def test_redis_is_asked_for_its_time_in_the_same_round_trip(
    ours: HostReports, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for the first report, whose entries need the time already."""
    executed = []
    execute = redis.connection.Connection.send_packed_command

    def noted(connection: Any, command: Any, **options: Any) -> None:
        executed.append(command)
        execute(connection, command, **options)  # type: ignore[no-untyped-call]

    ours.put(host_at())
    monkeypatch.setattr(redis.connection.Connection, "send_packed_command", noted)
    for _ in range(10):
        ours.put(host_at())
        ours.read(LINEAGE)
    assert len(executed) == 10 * (1 + 2 + 1)  # a report; sizes, what is read
    stats: Any = client.info("commandstats")
    assert stats["cmdstat_time"]["calls"] == 2 + 20


def test_a_clock_that_was_set_is_followed_with_the_next_report(ours: HostReports) -> None:
    ours.put(host_at())
    ours._ahead_seconds += 100.0  # noqa: SLF001  # another server took over, say
    ours.put(host_at())
    assert ours.read(LINEAGE).hosts[0].is_silent
    ours.put(host_at())
    assert not ours.read(LINEAGE).hosts[0].is_silent


# -- which entries are believed -----------------------------------------------------------------

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


# -- the highest position -----------------------------------------------------------------------


def test_the_highest_position_of_a_lineage_is_kept(ours: HostReports, client: redis.Redis) -> None:
    assert ours.highest(LINEAGE) == NOWHERE
    positions = [Position(LINEAGE, revision, f"{revision:016x}") for revision in range(1, 21)]
    for position in [*positions[10:], *positions[:10]]:
        ours.put(host_at(position))
    ours.put(host_at(Position(OTHER_LINEAGE, 99, "f" * 16)))
    assert ours.highest(LINEAGE) == positions[-1]
    assert client.zcard(HIGHEST) == 8
    ours.retire("a" * 16, LINEAGE)
    assert ours.highest(LINEAGE) == positions[-1], "also where the host that was there is gone"


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


# -- other databases ----------------------------------------------------------------------------


def test_hosts_of_two_databases_do_not_see_each_other(redis_server: RedisServer) -> None:
    ours = reports_at(redis_server.url)
    theirs = reports_at(redis_server.url, signing=lambda _lineage: (OTHER_KEY,))
    ours.put(host_at())
    theirs.put(host_at(Position(OTHER_LINEAGE, 3, "c" * 16), OTHER_ID))
    for reader, lineage, host_id, other in (
        (ours, LINEAGE, "a" * 16, OTHER_LINEAGE),
        (theirs, OTHER_LINEAGE, OTHER_ID, LINEAGE),
    ):
        found = reader.read(lineage)
        assert (ids(found.hosts), found.ignored, found.other_lineages) == ([host_id], 0, (other,))


def test_a_host_that_has_moved_from_one_database_to_another_is_found_once(
    redis_server: RedisServer, client: redis.Redis
) -> None:
    keys = {LINEAGE: [KEY], OTHER_LINEAGE: [OTHER_KEY]}
    ours = reports_at(redis_server.url, signing=keys.__getitem__)
    moved, left_behind = host_at(), host_at(host_id=OTHER_ID)
    for host in (moved, left_behind):
        client.hset(HOSTS, host.id, entry_of(host, client, age=5.0))
    after = Position(OTHER_LINEAGE, 1, "c" * 16)
    ours.put(replace(moved, position=after))
    found = ours.read(OTHER_LINEAGE, before=[LINEAGE])
    assert [(h.id, h.position, h.is_silent) for h in found.hosts] == [
        (moved.id, after, False),
        (left_behind.id, POSITION, True),
    ]
    assert found.other_lineages == ()


@pytest.mark.parametrize("back_seconds", [0.0, -0.2], ids=["", "its clock was behind"])
def test_a_host_is_where_it_reported_last_also_for_a_database_that_it_has_left(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, back_seconds: float
) -> None:
    """As after a restored backup: what it reported a moment before it left proves nothing."""
    keys = {LINEAGE: [KEY], OTHER_LINEAGE: [OTHER_KEY]}
    ours = reports_at(redis_server.url, signing=keys.__getitem__)
    ours.put(host_at())
    after = Position(OTHER_LINEAGE, 1, "c" * 16)
    now = ours._redis_seconds()  # noqa: SLF001  # the clock of the reports
    monkeypatch.setattr(ours, "_redis_seconds", lambda: now + back_seconds)
    ours.put(replace(host_at(), position=after), left=[LINEAGE])
    for lineage, other in ((LINEAGE, OTHER_LINEAGE), (OTHER_LINEAGE, LINEAGE)):
        for in_full in (False, True):
            found = ours.read(lineage, before=[other], in_full=in_full)
            assert [host.position for host in found.hosts] == [after]


def test_other_databases_are_those_that_reported_lately(
    client: redis.Redis, ours: HostReports
) -> None:
    ours.put(host_at())
    now = float(client.time()[0])
    client.zadd(
        LINEAGES,
        {
            "c" * 16: now,
            "d" * 16: now - 5,
            "e" * 16: float("inf"),
            "f" * 15: now,
            "\x1b]52;c;AAAA\x07..": now,
            "C" * 16: now,
        },
    )
    assert ours.read(LINEAGE).other_lineages == ("c" * 16,)
    ours.put(host_at())
    client.zadd(LINEAGES, {"d" * 16: now - FORGET_SECONDS - 5})
    ours.put(host_at())
    assert b"d" * 16 not in client.zrange(LINEAGES, 0, -1)


# -- acknowledgements ---------------------------------------------------------------------------


@contextmanager
def acknowledged(ours: HostReports, client: Any) -> Iterator[Any]:
    """Give a function that waits for the next hosts that are published, and their ids."""
    with ours.acknowledgements(LINEAGE) as receive:
        wait_until(
            lambda: dict(client.pubsub_numsub(CHANNEL))[CHANNEL.encode()],
            SOON_SECONDS,
            "it is subscribed",
        )
        yield lambda: wait_until(lambda: ids(tuple(receive(0.1))), SOON_SECONDS, "one has come")


def test_a_report_is_published_as_well(ours: HostReports, client: redis.Redis) -> None:
    with acknowledged(ours, client) as next_ids:
        ours.put(host_at())
        assert next_ids() == ["a" * 16]


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


# -- a Cluster ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterServer]:
    """Give a Cluster of two nodes."""
    with cluster_of_two() as server:
        yield server


@pytest.mark.parametrize("namespace", ["default", "other", "third", "fourth"])
def test_hosts_report_to_each_other_on_a_cluster(cluster: ClusterServer, namespace: str) -> None:
    """Whichever node has the keys."""
    with closing(cluster.cluster_client()) as client:
        ours = reports_at(None, client, namespace=namespace)
        with ours.acknowledgements(LINEAGE) as receive:
            ours.put(host_at())
            wait_until(lambda: ids(tuple(receive(0.1))) == ["a" * 16], SOON_SECONDS, "it has come")
        (found,) = ours.read(LINEAGE).hosts
        assert found.reported_seconds_ago < SOON_SECONDS
        assert ours.highest(LINEAGE) == POSITION
        ours.retire("a" * 16, LINEAGE)
        assert ours.read(LINEAGE).hosts == ()


def test_the_node_that_has_the_reports_is_asked_for_its_time(cluster: ClusterServer) -> None:
    """Each node has a clock of its own."""
    with closing(cluster.cluster_client()) as client:
        for number in range(8):
            client.config_resetstat(target_nodes=RedisCluster.ALL_NODES)
            reports_at(None, client, namespace=f"n{number}").put(host_at())
            stats = client.info("commandstats", target_nodes=RedisCluster.ALL_NODES)
            asked = [node for node, found in stats.items() if "cmdstat_time" in found]
            holder: Any = client.get_node_from_key(  # type: ignore[no-untyped-call]
                f"{{waffleconf:n{number}}}:lineages"
            )
            assert asked == [holder.name]


def test_a_key_that_is_too_large_is_found_on_a_cluster(
    cluster: ClusterServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(cluster.cluster_client()) as client:
        ours = reports_at(None, client)
        ours.put(host_at())
        monkeypatch.setattr(reports, "MAX_HASH_BYTES", 100)
        with pytest.raises(BusUnavailable, match="another program writes to it"):
            ours.read(LINEAGE)
