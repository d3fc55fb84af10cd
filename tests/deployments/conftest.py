"""What servers on one host share: an environment, a writer on another host, and a database."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.conftest import Apps
from tests.support import PostgresqlServer, RedisServer
from tests.support.counting import CountingServer
from tests.support.waiting import NEVER_SECONDS, SOON_SECONDS
from uwsgi_waffle import WaffleConf
from uwsgi_waffle.bus import client


@pytest.fixture(scope="package")
def database() -> Iterator[CountingServer]:
    """Give a PostgreSQL that counts."""
    with PostgresqlServer() as server:
        yield CountingServer(server)


@pytest.fixture(autouse=True)
def _patient_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the writer in this process wait for Redis, which a busy machine may keep for a second.

    The servers poll never, so what is not announced to them they would not see.
    """
    monkeypatch.setattr(client, "ANSWER_SECONDS", SOON_SECONDS)


def of_one_host(apps: Apps, redis: RedisServer, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of servers that share a host snapshot and a journal."""
    return {
        "WAFFLE_DATABASE_URI": apps.database_uri,
        "WAFFLE_SNAPSHOT_PATH": str(apps.directory / "shared" / "snapshot"),
        "WAFFLE_REDIS_URL": redis.url,
        "WAFFLE_POLL_SECONDS": str(NEVER_SECONDS),
        "TEST_JOURNAL": str(apps.directory / "journal"),
        **environment,
    }


def writer_elsewhere(apps: Apps, redis: RedisServer) -> WaffleConf[Any]:
    """Give an application on another host, which only writes."""
    _, writer = apps(
        host="elsewhere",
        WAFFLE_CONFS={"S000": {"default": 0}},
        WAFFLE_MULTIPROC=True,
        WAFFLE_LISTENER="none",
        WAFFLE_REDIS_URL=redis.url,
    )
    return writer
