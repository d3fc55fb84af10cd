"""Which files are refused as a host snapshot, and what is done about them."""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.host.others import give_to_another_user, write_word
from tests.host.states import at, record
from tests.support import require
from uwsgi_waffle.host import layout
from uwsgi_waffle.host.records import HostSnapshot

RECORD = record(7)
AS_ROOT = os.geteuid() == 0


def made(path: Path) -> HostSnapshot:
    """Return a host snapshot that holds a record."""
    host = HostSnapshot(path)
    assert host.publish(RECORD)
    return host


def cut_to(length: int) -> Callable[[Path], None]:
    """Return a function that gives a file another length."""
    return lambda path: os.truncate(path, length)


def fill_with_garbage(path: Path) -> None:
    path.write_bytes(os.urandom(layout.FILE_BYTES))


def replace_by_link(path: Path) -> None:
    elsewhere = path.with_name("elsewhere")
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def replace_by_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


SPOIL: dict[str, Callable[[Path], None]] = {
    "truncated": cut_to(layout.FILE_BYTES - 1),
    "empty": cut_to(0),
    "oversized": cut_to(layout.FILE_BYTES + layout.PAGE_BYTES),
    "garbage": fill_with_garbage,
    "older layout": partial(write_word, word=layout.VERSION_WORD, value=layout.VERSION - 1),
    "other room": partial(write_word, word=layout.ROOM_WORD, value=1),
    "open to others": lambda path: path.chmod(0o644),
    "link": replace_by_link,
    "fifo": replace_by_fifo,
    "another user's": give_to_another_user,
}


@pytest.mark.parametrize("how", SPOIL)
def test_a_file_that_cannot_be_trusted_is_replaced_which_is_logged(
    how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One log line names it, and a new file takes its place."""
    path = tmp_path / "host" / "snapshot"
    made(path)
    SPOIL[how](path)
    host = HostSnapshot(path)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert str(path) in caplog.text
    assert "is refused" in caplog.text
    assert host.is_shared
    assert host.read() is None
    assert host.publish(RECORD)
    found = HostSnapshot(path).read()
    assert found is not None
    assert found[1] == RECORD
    assert path.stat().st_mode & 0o777 == 0o600
    assert not path.is_symlink()


def test_a_file_of_a_newer_layout_is_left_to_the_newer_release(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two releases side by side must not replace each other's file again and again."""
    path = tmp_path / "snapshot"
    made(path)
    write_word(path, layout.VERSION_WORD, layout.VERSION + 1)
    before = path.stat().st_ino
    host = HostSnapshot(path)
    assert not host.is_shared
    assert path.stat().st_ino == before
    assert "newer uwsgi_waffle" in caplog.text
    assert host.publish(RECORD)
    assert host.position == at(7)


def test_a_file_of_another_namespace_is_left_to_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two applications with one file would serve each other's values."""
    path = tmp_path / "snapshot"
    made(path)
    host = HostSnapshot(path, "another")
    assert not host.is_shared
    assert host.read() is None
    assert "set another WAFFLE_SNAPSHOT_PATH for each" in caplog.text
    assert HostSnapshot(path).position == at(7)


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_a_file_that_was_never_a_host_snapshot_is_left_alone(
    mode: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A path that names another file by mistake, such as the database, must not cost that file."""
    path = tmp_path / "shop.db"
    path.write_bytes(b"SQLite format 3\0" + bytes(100))
    path.chmod(mode)
    before = path.read_bytes(), path.stat().st_ino
    host = HostSnapshot(path)
    assert not host.is_shared
    assert (path.read_bytes(), path.stat().st_ino) == before
    assert "set WAFFLE_SNAPSHOT_PATH to a file of its own" in caplog.text
    assert host.publish(RECORD)
    assert host.position == at(7)


def test_a_directory_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "directory"
    path.mkdir()
    assert not HostSnapshot(path).is_shared
    assert path.is_dir()
    assert not list(path.iterdir())
    assert "it is a directory; set WAFFLE_SNAPSHOT_PATH to a file" in caplog.text


def test_a_device_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    require(AS_ROOT, "the right to make a device (root)")
    path = tmp_path / "null"
    os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    assert not HostSnapshot(path).is_shared
    assert path.is_char_device()
    assert "set WAFFLE_SNAPSHOT_PATH to a file of its own" in caplog.text


def test_a_file_keeps_its_record_for_the_next_process(tmp_path: Path) -> None:
    path = tmp_path / "snapshot"
    first = made(path)
    second = HostSnapshot(path)
    assert second.read() == first.read()
    assert second.host_id == first.host_id


def test_directory_and_file_are_private(tmp_path: Path) -> None:
    path = tmp_path / "new" / "snapshot"
    made(path)
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("mode", "owner", "fault"),
    [
        (0o777, 0, "chmod go-w"),
        (0o700, 65534, "belongs to user 65534"),
        (0o1777, 0, ""),  # sticky, such as /tmp
    ],
)
def test_a_directory_that_cannot_be_trusted_is_bypassed(
    mode: int, owner: int, fault: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The process does without a file, logs that once with the fix, and still works."""
    directory = tmp_path / "directory"
    directory.mkdir()
    directory.chmod(mode)
    if owner:
        require(AS_ROOT, "the right to give a directory away (root)")
        os.chown(directory, owner, owner)
    host = HostSnapshot(directory / "snapshot")
    assert host.is_shared == (not fault)
    assert host.publish(RECORD)
    assert not host.verify()
    assert host.position == at(7), "verify() keeps private memory"
    if fault:
        assert list(directory.iterdir()) == []
        assert fault in caplog.text
        assert len(caplog.records) == 1


@pytest.mark.parametrize("how", ["deleted", "truncated", "empty", "garbage"])
def test_a_file_that_is_spoilt_while_it_is_mapped_is_mapped_again(how: str, tmp_path: Path) -> None:
    """verify() looks at the file before it touches memory that may be gone with it."""
    path = tmp_path / "snapshot"
    host = made(path)
    host.register("process", follows=True)
    replacement = path.with_name("replacement")
    if how == "garbage":
        fill_with_garbage(replacement)
        replacement.chmod(0o600)
        replacement.rename(path)
    elif how == "deleted":
        path.unlink()
    else:
        SPOIL[how](path)
    assert host.verify()
    assert host.is_shared
    assert host.read() is None
    assert [process.pid for process in host.slots.living()] == [os.getpid()]
    assert host.publish(RECORD)
    assert not host.verify()


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    """Neither by mapping again, nor by host snapshots that are no longer used."""
    assert not _descriptors_below(tmp_path)
    for number in range(3):
        host = made(tmp_path / str(number) / "snapshot")
        for _ in range(10):
            host.register("process")
            host.path.with_name("snapshot.processes").unlink()
            host.path.unlink()
            assert host.verify()
            host.publish(RECORD)
        assert [process.pid for process in host.slots.living()] == [os.getpid()]
        assert len(_descriptors_below(tmp_path)) <= 2
    del host
    assert not _descriptors_below(tmp_path)


def _descriptors_below(directory: Path) -> list[str]:
    """Return what this process has open in a directory; other tests' descriptors come and go."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(str(descriptor.readlink()))
    return [path for path in found if path.startswith(str(directory))]


def test_a_full_file_system_is_bypassed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Room is reserved when the file is made: a page that is missing later kills the process."""
    require(AS_ROOT, "the right to mount a file system (root)")
    mount = tmp_path / "small"
    mount.mkdir()
    size = layout.FILE_BYTES // 2
    mounted = subprocess.run(
        ["/bin/mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(mount)],
        check=False,
    )
    require(mounted.returncode == 0, "a tmpfs to mount")
    try:
        host = HostSnapshot(mount / "snapshot")
        assert not host.is_shared
        assert "No space left" in caplog.text
        assert {path.name for path in mount.iterdir()} == {"snapshot.lock", "snapshot.processes"}
        assert host.publish(RECORD)
        assert host.position == at(7)
    finally:
        subprocess.run(["/bin/umount", "--lazy", str(mount)], check=True)
