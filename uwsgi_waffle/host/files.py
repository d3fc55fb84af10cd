"""Opening the host snapshot file: private, of one size, of this layout, or replaced.

Nothing in the file is believed before it has been checked, and nothing is followed: another
user's file or directory, a link, or a file that others may write is refused.
"""

from __future__ import annotations

import fcntl
import glob
import hashlib
import logging
import mmap
import os
import stat
import struct
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from uwsgi_waffle.config import Config, redact_url

from . import layout

__all__ = ["MappedFile", "RefusedFile", "default_path", "locked"]

logger = logging.getLogger(__name__)

_OPEN = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK

#: Seconds to wait for a lock that is held for microseconds: its holder is stopped, or hangs.
LOCK_SECONDS = 5.0
#: Seconds between two tries to take a lock.
LOCK_RETRY_SECONDS = 0.001


class RefusedFile(Exception):
    """A file or directory that must not be used; the message says why."""


class ForeignFile(RefusedFile):
    """A file that must be left to those who made it."""


class MappedFile:
    """A snapshot file in memory.

    :ivar words: the whole file as native unsigned 64-bit words
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.memory = mmap.mmap(descriptor, layout.FILE_BYTES)
        self.words = memoryview(self.memory).cast("Q")
        self._identity = _identity(os.fstat(descriptor))

    def is_in_place(self) -> bool:
        """Return whether the file is still the one at its path, and still of its size.

        To touch memory beyond the end of a file that was cut short kills a process.
        """
        try:
            found = self.path.lstat()
        except OSError:
            return False
        return _identity(found) == self._identity and found.st_size == layout.FILE_BYTES

    def abandon(self) -> None:
        """Have other processes that still map this file look for the one in its place.

        They see a record that is not there, and so look closer.
        """
        if self.memory.size() >= layout.FILE_BYTES:
            moved_on = self.words[layout.SEQUENCE_WORD] + 1
            self.words[layout.SEQUENCE_WORD] = moved_on & layout.WORD_MAX

    def close(self) -> None:
        """Unmap the file; readers must have let go of ``words``."""
        self.words.release()
        self.memory.close()


def open_file(path: Path, namespace: str, host_id: int) -> MappedFile:
    """Return the snapshot file at *path*, made or replaced where it cannot be used.

    :param host_id: what a new file tells this host from others by
    :raises RefusedFile: the directory is not ours to trust, or the file a newer release's
    :raises OSError: the file system has no room, is read-only, ...
    """
    _check_directory(path.parent)
    refusal: Exception | None = None
    with locked(path) as held:
        check_held(path, held=held)
        try:
            return _open_checked(path, namespace)
        except FileNotFoundError:
            pass
        except ForeignFile:
            raise
        except (RefusedFile, OSError) as error:
            refusal = error
            _lengthen(path)
        _create(path, namespace, host_id)
        mapped = _open_checked(path, namespace)
    if refusal is not None:
        logger.warning(
            "waffle: the host snapshot %s is refused (%s) and replaced. Nothing is lost: the "
            "settings are read from SQL.",
            path,
            refusal,
        )
    return mapped


@contextmanager
def locked(
    path: Path, suffix: str = ".lock", *, wait_seconds: float | None = None
) -> Iterator[bool]:
    """Hold the lock of a snapshot file, and give whether it is held.

    The lock file is opened anew each time: a descriptor inherited through a fork would share the
    parent's lock instead of competing for it.

    :param wait_seconds: how long to wait for it at most; :data:`LOCK_SECONDS` if left out
    :raises OSError: it cannot be opened, or is another user's, who could keep us waiting
    """
    descriptor = os.open(
        path.with_name(path.name + suffix), _OPEN | os.O_CREAT, stat.S_IRUSR | stat.S_IWUSR
    )
    held = False
    try:
        owner = os.fstat(descriptor).st_uid
        if owner != os.geteuid():
            message = f"{path.name}{suffix} belongs to user {owner}"
            raise PermissionError(message)
        held = _acquire(descriptor, LOCK_SECONDS if wait_seconds is None else wait_seconds)
        yield held
    finally:
        if held:
            # Closing would not do: a child forked meanwhile has the descriptor too, and would hold
            # the lock until it ends.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def check_held(path: Path, *, held: bool) -> None:
    """Refuse to go on without a lock.

    :raises TimeoutError: it is not held
    """
    if not held:
        message = f"another process has held {path.name}.lock for {LOCK_SECONDS:g} s"
        raise TimeoutError(message)


def _acquire(descriptor: int, wait_seconds: float) -> bool:
    """Take a lock, and return whether it is held.

    By trying again: under gevent, whoever waits within ``flock`` keeps a greenlet of its own
    process, which may hold the lock, from ever giving it back.
    """
    deadline = time.monotonic() + wait_seconds
    while True:
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(LOCK_RETRY_SECONDS)


def default_path(config: Config) -> Path:
    """Return the file that every process of this user, namespace and database means.

    The layout is part of the name, so that two releases running side by side do not replace each
    other's file again and again.
    """
    memory = Path("/dev/shm")  # noqa: S108  # the directory made in it is private, and checked
    parent = memory if memory.is_dir() else Path(tempfile.gettempdir())
    identity = f"{config.namespace}\n{redact_url(config.database_uri)}"
    name = hashlib.sha256(identity.encode()).hexdigest()[:16]
    return parent / f"uwsgi_waffle-{os.geteuid()}" / f"{name}.{layout.VERSION}.snapshot"


def _check_directory(directory: Path) -> None:
    """Make the directory if need be, and refuse one that others could tamper with.

    :raises RefusedFile: it is a link, another user's, or writable by others
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise RefusedFile(f"{directory} is not a directory")
    if found.st_uid not in (os.geteuid(), 0):
        raise RefusedFile(f"{directory} belongs to user {found.st_uid}")
    # In a sticky directory, such as /tmp, others may add files but not take ours away.
    if found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX:
        raise RefusedFile(f"{directory} may be written by others; run `chmod go-w {directory}`")


def _open_checked(path: Path, namespace: str) -> MappedFile:
    """Map an existing file.

    :raises RefusedFile: it is not a file of ours, of this size and layout
    """
    descriptor = os.open(path, _OPEN)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise RefusedFile("it is not a regular file")
        if found.st_uid != os.geteuid():
            raise RefusedFile(f"it belongs to user {found.st_uid}")
        if found.st_mode & 0o077:
            raise RefusedFile("others may read or write it")
        if found.st_size != layout.FILE_BYTES:
            raise RefusedFile(f"it has {found.st_size} bytes, not {layout.FILE_BYTES}")
        mapped = MappedFile(path, descriptor)
    finally:
        os.close(descriptor)
    try:
        _check_layout(mapped.words, namespace)
    except RefusedFile:
        mapped.close()
        raise
    return mapped


def _check_layout(words: memoryview[int], namespace: str) -> None:
    """Refuse a file whose words stand elsewhere than we would look for them.

    :raises ForeignFile: a newer release, or another namespace, goes on using it
    :raises RefusedFile: it is older, or none of ours
    """
    if words[layout.MAGIC_WORD] != layout.MAGIC:
        raise RefusedFile("it is not a snapshot")
    version = words[layout.VERSION_WORD]
    if version > layout.VERSION:
        raise ForeignFile(f"it is of layout {version}, which only a newer uwsgi_waffle reads")
    sizes = words[layout.ROOM_WORD], words[layout.SLOTS_WORD]
    if version != layout.VERSION or sizes != (layout.ROOM_BYTES, layout.SLOT_COUNT):
        raise RefusedFile(f"it is of layout {version}, not {layout.VERSION}")
    if words[layout.OWNER_WORD] != layout.owner_number(namespace):
        raise ForeignFile(
            "it holds another namespace's settings; give each a WAFFLE_SNAPSHOT_PATH of its own"
        )


def _lengthen(path: Path) -> None:
    """Give a file that was cut short its length back, before another takes its place.

    Processes that still map it would be killed when they touch what is no longer there.
    """
    with suppress(OSError):
        descriptor = os.open(path, _OPEN)
        try:
            found = os.fstat(descriptor)
            is_ours = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()
            if is_ours and found.st_size < layout.FILE_BYTES:
                os.posix_fallocate(descriptor, 0, layout.FILE_BYTES)
        finally:
            os.close(descriptor)


def _create(path: Path, namespace: str, host_id: int) -> None:
    """Put a new, empty file at *path*, whole from the first moment on; call it under the lock."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*"):
        leftover.unlink()  # of a process that was killed here
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        try:
            # Reserved now: a page that cannot be had when it is first written kills the process.
            os.posix_fallocate(descriptor, 0, layout.FILE_BYTES)
            header = (layout.MAGIC, layout.VERSION, layout.ROOM_BYTES, layout.SLOT_COUNT)
            os.pwrite(descriptor, struct.pack("=4Q", *header), 0)
            for word, value in (
                (layout.HOST_ID_WORD, host_id),
                (layout.OWNER_WORD, layout.owner_number(namespace)),
            ):
                os.pwrite(descriptor, struct.pack("=Q", value), word * layout.WORD_BYTES)
        finally:
            os.close(descriptor)
        Path(name).rename(path)
    except BaseException:
        Path(name).unlink()
        raise


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino
