"""What a command finds alive here where it finds no process of its application."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.host.test_leftovers import database_of, lose_database, made, path_of
from uwsgi_waffle.host.neighbours import Neighbour, neighbours
from uwsgi_waffle.host.records import HostSnapshot


def found(directory: Path) -> list[Neighbour]:
    """Return what lives beside the application named "own"."""
    return list(neighbours(directory / "shared", path_of(directory, "own")))


def test_processes_of_other_databases_are_found_while_they_live(tmp_path: Path) -> None:
    own, other, third = (made(tmp_path, name) for name in ("own", "other", "third"))
    for host in (own, other):
        host.register("worker")
    assert found(tmp_path) == [Neighbour(1, database_of(tmp_path, "other"))]
    third.register("process")
    assert [one.count for one in found(tmp_path)] == [1, 1]
    other.slots.release()
    assert found(tmp_path) == [Neighbour(1, database_of(tmp_path, "third"))]


def test_a_database_that_is_not_known_is_not_named(tmp_path: Path) -> None:
    host = HostSnapshot(path_of(tmp_path, "of a server"))
    host.register("worker")
    assert found(tmp_path) == [Neighbour(1, None)]


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 4096])
def test_what_is_no_host_snapshot_is_passed_over(tmp_path: Path, content: bytes) -> None:
    other = made(tmp_path, "other")
    other.register("worker")
    path_of(tmp_path, "a").write_bytes(content)
    path_of(tmp_path, "b").symlink_to(path_of(tmp_path, "other"))
    lose_database(tmp_path, "other")
    assert [one.count for one in found(tmp_path)] == [1]
