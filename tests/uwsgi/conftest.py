"""What the tests of uWSGI share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import RedisServer


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """Give a Redis that no test breaks; each instance has a channel of its own there."""
    with RedisServer() as server:
        yield server
