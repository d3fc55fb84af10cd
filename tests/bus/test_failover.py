"""Another server takes the place of Redis in the middle of updates, and nothing is lost."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.conftest import Apps
from tests.support import wait_until
from tests.support.listening import Host
from tests.support.redis_kinds import cluster_of_three, replicated_redis
from tests.support.waiting import SOON_SECONDS

#: Updates before the server is gone, and after another one has taken its place.
UPDATES = 10


def update_throughout(apps: Apps, url: str, lose: Callable[[], None]) -> None:
    """Change a setting again and again while a server is lost, and compare what arrives.

    Neither host polls, so whatever arrives comes by Redis, or is read because Redis was lost.
    """
    here, there = (Host(apps, name, url) for name in ("here", "there"))
    for host in (here, there):
        host.listen()
        host.wait_until_listener("live")
    size = 1
    for _ in range(UPDATES):
        size += 1
        assert here.change(size)
        there.wait_until_serving(size)
    lose()
    missed = 0

    def is_announced() -> bool:
        nonlocal size, missed
        size += 1
        done = here.change(size)
        missed += not done
        return done

    # A server that is about to be lost may still take some.
    wait_until(lambda: not is_announced(), SOON_SECONDS, "the server is lost")
    there.wait_until_listener("live")
    wait_until(is_announced, SOON_SECONDS, "changes are announced by the other server")
    there.wait_until_serving(size)
    for _ in range(UPDATES):
        size += 1
        wait_until(lambda: here.change(size) or True, SOON_SECONDS, "it is committed")  # noqa: B023
        there.wait_until_serving(size)
    assert missed, "some were announced by none"
    assert here.waffle.revision == here.state.store.peek().revision == size - 1
    revisions = [position.revision for position in there.moves]
    assert revisions == sorted(revisions), "it never went back"
    assert here.waffle.wait(size - 1, timeout=SOON_SECONDS).total == 2


@pytest.mark.parametrize("how", ["killed", "replaced"])
def test_a_replica_that_a_sentinel_puts_in_its_place(apps: Apps, how: str) -> None:
    """The master ends, or lives on as a replica of the one that replaces it."""
    with replicated_redis() as (master, _, sentinel):
        update_throughout(
            apps, sentinel.url, master.kill if how == "killed" else sentinel.order_failover
        )
        apps.close()


def test_a_spare_that_a_cluster_puts_in_its_place(apps: Apps) -> None:
    """Of the node where the hosts are subscribed; to subscribe does not tell redis-py of it."""
    with cluster_of_three() as (node, subscribed):
        update_throughout(apps, node.cluster_url, subscribed.kill)
        apps.close()
