"""A host of release 0.1.0 and one of this release, on one database and one Redis.

What is held here is what docs/upgrading.md says.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support import DATABASE_KINDS, DatabaseKind, RedisServer, UwsgiServer, fresh_database
from tests.support.instance import BOOT
from tests.support.places import ROOT
from tests.support.release_0_1_0 import python_of_0_1_0
from tests.support.soak import is_soak, times
from tests.support.waiting import NEVER_SECONDS, SOON_SECONDS, wait_until

APP = ROOT / "tests" / "apps" / "either_release.py"
WORKERS = 2
#: Enough for each worker to have answered.
ASKED = 12
SECRET = "Geheim-9"  # noqa: S105  # of a setting that the test makes


class Host:
    """A uWSGI with a mule that serves ``either_release.py``, and a host snapshot of its own."""

    def __init__(self, directory: Path, environment: dict[str, str], poll_seconds: float) -> None:
        """Run this release."""
        directory.mkdir()
        shutil.copy(APP, directory)
        self.server = UwsgiServer(
            {"processes": WORKERS, "module": "either_release:app", **BOOT},
            arguments=["--disable-logging"],
        )
        self.server.python_path = directory
        self.server.environment = {
            **environment,
            "PYTHONPATH": f"{ROOT}:{directory}",
            "WAFFLE_MULTIPROC": "true",
            "WAFFLE_POLL_SECONDS": str(poll_seconds),
            "WAFFLE_SNAPSHOT_PATH": str(directory / "snapshot"),
        }

    def of_0_1_0(self, python: Path) -> Host:
        """Run 0.1.0 instead."""
        self.server.python = python
        del self.server.environment["PYTHONPATH"]
        return self

    def ask(self, path: str = "/", sent: object = None) -> Any:
        """Return what a worker answers."""
        got = self.server.get(path) if sent is None else self.server.post(path, sent)
        assert got.status == 200, got.text
        return got.json()

    def update(self, **values: object) -> int:
        """Change settings, and return the revision."""
        return int(self.ask("/update", values)["revision"])

    def wait_until_serving(self, revision: int, **values: object) -> None:
        """Return when each worker serves a revision, with these values."""

        def is_served() -> bool:
            seen = [self.ask() for _ in range(ASKED)]
            for one in seen:
                assert one["revision"] <= revision
                assert one["revision"] < revision or values.items() <= one.items(), one
            return all(one["revision"] == revision for one in seen)

        wait_until(is_served, SOON_SECONDS, f"all workers serve revision {revision}")


#: A host of 0.1.0, and one of this release.
Pair = tuple[Host, Host]


@pytest.fixture(scope="module", params=DATABASE_KINDS if is_soak() else DATABASE_KINDS[:1])
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    """Give both hosts, at a revision that 0.1.0 has made before this release was started."""
    kind: DatabaseKind = request.param
    python = python_of_0_1_0()
    directory = tmp_path_factory.mktemp("hosts")
    with contextlib.ExitStack() as stack:
        uri = stack.enter_context(fresh_database(kind))
        redis = stack.enter_context(RedisServer())
        environment = {"WAFFLE_DATABASE_URI": uri, "WAFFLE_REDIS_URL": redis.url}
        # What 0.1.0 sees in time it sees by messages; this release, by its polls.
        old = Host(directory / "old", environment, NEVER_SECONDS).of_0_1_0(python)
        stack.enter_context(old.server)
        assert old.update(TOKEN=SECRET, HERE=1, THERE=1) == 1
        new = Host(directory / "new", environment, 0.5)
        stack.enter_context(new.server)
        redis.wait_for_subscribers(2)
        yield old, new


def test_this_release_serves_what_0_1_0_has_stored(pair: Pair) -> None:
    _, new = pair
    new.wait_until_serving(1, TOKEN=SECRET, HERE=1, THERE=1)


def test_each_follows_the_other(pair: Pair) -> None:
    for value in range(2, times(4, 20)):
        for writer in pair:
            revision = writer.update(HERE=value, THERE=value)
            for host in pair:
                host.wait_until_serving(revision, HERE=value, THERE=value, TOKEN=SECRET)


def test_changes_made_on_both_at_once_are_all_kept(pair: Pair) -> None:
    old, new = pair
    count = times(15, 100)
    first = old.update(HERE=-1, THERE=-1)

    def write(host: Host, name: str) -> list[int]:
        return [host.update(**{name: 1000 + value}) for value in range(count)]

    with ThreadPoolExecutor(2) as pool:
        made = [pool.submit(write, old, "HERE"), pool.submit(write, new, "THERE")]
        here, there = (one.result() for one in made)
    assert sorted(here + there) == list(range(first + 1, first + 2 * count + 1))
    for host in pair:
        host.wait_until_serving(first + 2 * count, HERE=999 + count, THERE=999 + count)
    log = [tuple(line) for line in old.ask("/history")]
    assert log == [tuple(line) for line in new.ask("/history")]
    assert set(zip(here, ["HERE"] * count, range(1000, 1000 + count), strict=True)) <= set(log)
    assert set(zip(there, ["THERE"] * count, range(1000, 1000 + count), strict=True)) <= set(log)


def test_each_goes_back_to_what_the_other_has_changed(pair: Pair) -> None:
    for writer, undoer in (pair, pair[::-1]):
        kept = writer.update(HERE=7, THERE=7)
        writer.update(HERE=8, THERE=9)
        revision = undoer.ask("/rollback", kept)["revision"]
        for host in pair:
            host.wait_until_serving(revision, HERE=7, THERE=7, TOKEN=SECRET)


def test_a_secret_stays_masked_in_the_history_of_each(pair: Pair) -> None:
    _, new = pair
    revision = new.update(TOKEN=f"{SECRET}b")
    for host in pair:
        host.wait_until_serving(revision, TOKEN=f"{SECRET}b")
        secrets = [new for _, name, new in host.ask("/history") if name == "TOKEN"]
        assert secrets
        assert set(secrets) == {"********"}
    new.update(TOKEN=SECRET)


def test_each_proves_for_hosts_of_its_own_release_only(pair: Pair) -> None:
    old, new = pair
    revision = new.update(HERE=20)
    for host in pair:
        host.wait_until_serving(revision)
        (known,) = host.ask("/status")["hosts"]
        assert host.ask("/wait", {}) == {"hosts": [known]}
    assert old.ask("/status")["problems"] == []
    (problem,) = new.ask("/status")["problems"]
    assert "not signed by our key, or malformed, and ignored" in problem


def test_0_1_0_starts_again_on_the_upgraded_tables(pair: Pair) -> None:
    old, new = pair
    revision = new.update(HERE=30, THERE=31)
    old.server.reload()
    old.wait_until_serving(revision, HERE=30, THERE=31, TOKEN=SECRET)
    last = old.update(HERE=32)
    for host in pair:
        host.wait_until_serving(last, HERE=32, THERE=31)
