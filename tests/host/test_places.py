"""A host snapshot on a disk, which outlives a boot, and is copied with the disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.host.states import at, record
from uwsgi_waffle.host import files, marks
from uwsgi_waffle.host.records import HostSnapshot


@contextmanager
def another_boot(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have files be opened as on another machine, or after a boot of this one."""
    with monkeypatch.context() as patch:
        patch.setattr(files, "number_of_place", lambda device: marks.number_of_place(device + 1))
        yield


def test_a_disk_that_is_copied_makes_another_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the same identity one would take the place of the other, and `wait` would miss it."""
    (tmp_path / "disk").mkdir()
    host = HostSnapshot(tmp_path / "disk" / "snapshot")
    host.publish(record(1))
    shutil.copytree(tmp_path / "disk", tmp_path / "copy")
    with another_boot(monkeypatch):
        copy = HostSnapshot(tmp_path / "copy" / "snapshot")
        assert copy.host_id == HostSnapshot(copy.path).host_id, "for each process of that machine"
    assert copy.host_id != host.host_id
    assert copy.position == host.position == at(1)


def test_no_date_of_an_earlier_boot_is_taken_for_one_of_this(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine was up for as long then as it is now, and has been off for a week since."""
    host = HostSnapshot(tmp_path / "snapshot")
    host.beat()
    host.note_asked()
    host.note_registered()
    assert host.claim_report(60)
    again = HostSnapshot(host.path)
    assert again.is_registered
    assert not again.claim_report(60)
    with another_boot(monkeypatch):
        later = HostSnapshot(host.path)
    assert later.heartbeat_age_seconds() is None
    assert not later.was_asked_within(60)
    assert not later.was_registered_within(60)
    assert not later.is_registered
    assert later.claim_report(60)
    later.beat()
    assert later.heartbeat_age_seconds() is not None
