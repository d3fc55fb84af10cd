"""What the tests of the listener share: hosts that write and listen, and what others publish."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import Apps
from tests.support import RedisServer
from tests.support.listening import Host
from tests.support.statements import Statements, recording
from uwsgi_waffle.bus.announcements import Announcement
from uwsgi_waffle.values.position import Position


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


def publish(server: RedisServer, *messages: str | bytes) -> None:
    """Publish messages, and return when Redis has delivered them."""
    with server.client() as client:
        pipeline = client.pipeline(transaction=False)
        for message in messages:
            pipeline.publish("waffleconf", message)
        pipeline.execute()


def signed(host: Host, position: Position, namespace: str = "default") -> str:
    """Return an announcement as a host of this database makes it."""
    return Announcement(namespace, position).encode(host.state.host.keys)


def forged(position: Position) -> str:
    """Return an announcement with the signature of another database."""
    return Announcement("default", position).encode(["f" * 64])
