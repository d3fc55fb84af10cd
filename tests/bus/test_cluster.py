"""A Cluster: announcements and reports reach each host, whichever nodes have them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from redis.cluster import RedisCluster

from tests.bus.conftest import LINEAGE, POSITION, bus_at, host_at, ids, reports_at
from tests.support import wait_until
from tests.support.redis_kinds import ClusterServer, cluster_of_two
from tests.support.waiting import SOON_SECONDS
from uwsgi_waffle.bus import reports
from uwsgi_waffle.bus.client import BusUnavailable


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterServer]:
    """Give a Cluster of two nodes."""
    with cluster_of_two() as server:
        yield server


def test_a_cluster_delivers_from_every_node_to_every_node(cluster: ClusterServer) -> None:
    """A node counts its own subscribers only, and yet a host that hears a change is counted."""
    with closing(cluster.cluster_client()) as client:
        for number in range(8):
            bus = bus_at(None, client, redis_channel=f"channel-{number}")
            assert not bus.publish(POSITION)
            with bus.subscribe() as subscription:
                assert bus.publish(POSITION)
                assert subscription.receive(SOON_SECONDS).announcements


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
