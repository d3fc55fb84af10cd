"""A disk that is full: an update is refused or made, never half, and later ones are made again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Apps
from tests.machine.disk import Disk
from tests.support.listening import Host
from tests.support.soak import times
from uwsgi_waffle import StoreUnavailable

CONFS = {"TEXT": {"default": ""}}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    directory = tmp_path / "disk"
    directory.mkdir()
    with contextlib.closing(Disk(directory, None, "2m")) as made:
        if not made.is_mounted:
            pytest.skip("mounting a file system is not allowed here")
        yield made


def test_an_update_on_a_full_disk_is_refused_and_the_next_one_is_made(
    disk: Disk, tmp_path: Path
) -> None:
    """SQLite; the others are filled by the soak, where their disk is one of its own."""
    with contextlib.closing(Apps(tmp_path, f"sqlite:///{tmp_path}/disk/waffle.db")) as apps:
        here = Host(apps, "here", poll_seconds=0.1, multiproc=False, confs=CONFS)
        for number in range(times(3, 100)):
            good = f"{number} "
            here.waffle.update({"TEXT": good})
            before = here.position
            disk.fill()
            with pytest.raises(StoreUnavailable, match="full"):
                here.waffle.update({"TEXT": str(number) * 100_000})
            assert here.state.store.peek() == before
            assert (here.waffle.settings.TEXT, here.position) == (good, before)
            disk.empty()
        assert here.waffle.update({"TEXT": "last"}).revision == before.revision + 1
