"""A plain script that forks (`os.fork`): parent and child each go on, and see each other's changes.

Servers that fork are tested under those servers.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import DATABASE_KINDS, RedisServer, fresh_database


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    """Run a Redis."""
    with RedisServer() as server:
        yield server


@pytest.mark.parametrize("kind", DATABASE_KINDS)
def test_parent_and_child_of_a_script_that_forks(
    redis_server: RedisServer, tmp_path: Path, kind: Any
) -> None:
    with fresh_database(kind) as url:
        finished = subprocess.run(
            [
                *(sys.executable, "-W", "ignore::DeprecationWarning", "-m", "tests.apps.forker"),
                *(url, str(tmp_path / "host" / "snapshot"), redis_server.url),
            ],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    in_child, in_parent = map(json.loads, finished.stdout.splitlines())
    assert in_child == {
        "threads_before": 0,
        "read_in_parent": 1,
        "threads_in_parent": 1,
        # Threads do not cross a fork; the child starts one of its own.
        "threads_in_child_at_once": 1,
        "connection_is_shared": False,
        "child_told_while_idle": True,
        "read_in_child": 2,
        "child_writes": 3,
    }
    assert in_parent == {"parent_sees": 5, "parent_threads": 1, "parent_still_works": 4}
