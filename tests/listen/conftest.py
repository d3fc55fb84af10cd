"""What the tests of the listener share: a host that writes, and one that listens."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import Apps
from tests.support import RedisServer
from tests.support.listening import Host
from tests.support.statements import Statements, recording


@pytest.fixture
def writer(apps: Apps, redis_server: RedisServer) -> Host:
    """Give a host that writes, and has made a first revision."""
    host = Host(apps, "writer", redis_server, listens=False)
    host.commit()
    return host


@pytest.fixture
def here(
    apps: Apps,
    redis_server: RedisServer,
    writer: Host,
    quick_turns: None,  # noqa: ARG001
) -> Host:
    """Give a host that listens, is at the first revision, and polls never again."""
    host = Host(apps, "here", redis_server)
    host.listen(redis_server)
    host.wait_until_at(writer.state.store.peek())
    host.wait_for_turns()
    return host


@pytest.fixture
def statements(here: Host) -> Iterator[Statements]:
    """Give what that host sends to SQL from now on."""
    with recording(here.state.store.database.engine) as seen:
        yield seen
