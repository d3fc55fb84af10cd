"""Opening the host snapshot file: private, of one size, of this layout, or replaced.

Another user's file or directory, a link, and a file that others may write are refused.
"""

from __future__ import annotations

import glob
import hashlib
import logging
import mmap
import os
import stat
import struct
import tempfile
from contextlib import suppress
from pathlib import Path

from uwsgi_waffle.config import Config, redact_url

from . import areas, layout
from .leftovers import note_of, sweep
from .lives import LifeLocks
from .locks import LOCK_SUFFIX, OPEN_FLAGS, locked
from .marks import number_of_place

__all__ = ["MappedFile", "RefusedFile", "default_path", "open_file"]

logger = logging.getLogger(__name__)

#: Of the second name of the file, see :func:`_lead_here`.
_SECOND_SUFFIX = ".second"


class RefusedFile(Exception):
    """A file or directory that must not be used; the message gives the reason."""


class ForeignFile(RefusedFile):
    """A file that must be left to another release or namespace, or to whatever it belongs to."""


class MappedFile:
    """A snapshot file in memory.

    :ivar words: the whole file as native unsigned 64-bit words
    :ivar place: a number for the file system that it is on, on this machine
    :ivar lives: the locks of the processes that use it
    """

    lives: LifeLocks

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.memory = mmap.mmap(descriptor, layout.FILE_BYTES)
        self.words = memoryview(self.memory).cast("Q")
        found = os.fstat(descriptor)
        self.place = number_of_place(found.st_dev)
        self._identity = found.st_dev, found.st_ino, layout.FILE_BYTES

    def is_in_place(self) -> bool:
        """Return whether the file is still the one at its path, and still of its size.

        To touch memory beyond the end of a file that was cut short kills a process.
        """
        try:
            found = self.path.lstat()
        except OSError:
            return False
        identity = found.st_dev, found.st_ino, found.st_size
        return identity == self._identity

    def abandon(self) -> None:
        """Make other processes that still map this file look for the one in its place.

        They find no record, and so verify the file.
        """
        if self.memory.size() >= layout.FILE_BYTES:
            areas.leave_in_doubt(self.words)

    def close(self) -> None:
        """Unmap the file; readers must have released ``words``."""
        self.words.release()
        self.memory.close()


def open_file(path: Path, namespace: str, host_id: int, database: Path | None = None) -> MappedFile:
    """Return the snapshot file at *path*, made or replaced where it cannot be used.

    :param host_id: the random number that identifies this host, unless it is known by another one
    :param database: the SQLite file with which a new file ends, where the path is the default one
    :raises RefusedFile: the directory cannot be trusted, or the file must be left to its owner
    :raises OSError: the file system has no room, is read-only, ...
    """
    _check_directory(path.parent)
    lives = LifeLocks(path)
    lives.held_here()  # first, so that no sweep removes what is opened next
    mapped = _open_or_create(path, namespace, host_id, database)
    mapped.lives = lives
    _lead_here(path, namespace)
    return mapped


def _open_or_create(path: Path, namespace: str, host_id: int, database: Path | None) -> MappedFile:
    # A whole file needs no lock, which a stopped process may hold.
    with suppress(OSError, RefusedFile):
        return _open_checked(path, namespace)
    refusal: Exception | None = None
    with locked(path):
        try:
            return _open_checked(path, namespace)
        except FileNotFoundError:
            pass
        except ForeignFile:
            raise
        except (RefusedFile, OSError) as error:
            refusal = error
            _lengthen(path)
        if database is not None:
            sweep(path.parent)
        _create(path, namespace, _kept_host_id(path, host_id), note_of(database))
        mapped = _open_checked(path, namespace)
    if refusal is not None:
        logger.warning(
            "waffle: the host snapshot %s is refused (%s) and replaced. Nothing is lost: the "
            "settings are read from SQL.",
            path,
            refusal,
        )
    return mapped


def default_path(config: Config) -> Path:
    """Return the path that all processes of this user, namespace and database share.

    The layout is part of the name, so that two releases that run side by side do not replace each
    other's file again and again.
    """
    memory = Path("/dev/shm")  # noqa: S108  # the directory made in it is private, and checked
    parent = memory if memory.is_dir() else Path(tempfile.gettempdir())
    identity = f"{config.namespace}\n{redact_url(config.database_uri)}"
    name = hashlib.sha256(identity.encode()).hexdigest()[:16]
    return parent / f"uwsgi_waffle-{os.geteuid()}" / f"{name}.{layout.VERSION}.snapshot"


def _check_directory(directory: Path) -> None:
    """Make the directory if it is missing, and refuse one that others could tamper with.

    :raises RefusedFile: it is a link, another user's, or writable by others
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise RefusedFile(f"{directory} is not a directory")
    if found.st_uid not in (os.geteuid(), 0):
        raise RefusedFile(f"{directory} belongs to user {found.st_uid}")
    # In a sticky directory, such as /tmp, others may add files but not remove ours.
    if found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX:
        raise RefusedFile(f"{directory} may be written by others; run `chmod go-w {directory}`")


def _open_checked(path: Path, namespace: str) -> MappedFile:
    """Map an existing file.

    :raises ForeignFile: it is something else, such as a database
    :raises RefusedFile: it is not this user's, or not of this size and layout
    """
    try:
        descriptor = os.open(path, OPEN_FLAGS)
    except IsADirectoryError:
        raise ForeignFile(
            "it is a directory; set WAFFLE_SNAPSHOT_PATH to a file of its own in it"
        ) from None
    try:
        found = os.fstat(descriptor)
        if _is_something_else(descriptor, found):
            raise ForeignFile(
                "it is something else than a host snapshot, and is left alone; set "
                "WAFFLE_SNAPSHOT_PATH to a file of its own"
            )
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


def _is_something_else(descriptor: int, found: os.stat_result) -> bool:
    """Return whether a file was never a host snapshot, not even one that was damaged since."""
    if not stat.S_ISREG(found.st_mode):
        return not stat.S_ISFIFO(found.st_mode)  # a device
    if found.st_size in (0, layout.FILE_BYTES):
        return False
    beginning = os.pread(descriptor, layout.WORD_BYTES, 0)
    magic = struct.pack("=Q", layout.MAGIC)
    return bool(beginning.strip(b"\0")) and not magic.startswith(beginning)


def _check_layout(words: memoryview[int], namespace: str) -> None:
    """Refuse a file of another layout or namespace.

    :raises ForeignFile: a newer release, or another namespace, uses it
    :raises RefusedFile: it is older, or not a snapshot
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
            "it holds another namespace's settings; set another WAFFLE_SNAPSHOT_PATH for each"
        )


def _lead_here(path: Path, namespace: str) -> None:
    """Have the processes that map a file which was at *path* before look for the one there now.

    Each file has a second name, by which it is found when it has lost the first. Where it has lost
    both, the first process that moves from it to another leads the others.
    """
    second = path.with_name(path.name + _SECOND_SUFFIX)
    with suppress(OSError):  # as where files cannot have two names
        if second.exists() and path.samefile(second):
            return
        with suppress(OSError, RefusedFile):
            former = _open_checked(second, namespace)
            former.abandon()
            former.close()
        second.unlink(missing_ok=True)
        os.link(path, second, follow_symlinks=False)


def _lengthen(path: Path) -> None:
    """Restore the length of a file that was cut short, before another takes its place.

    Processes that still map it would be killed when they touch the missing part.
    """
    with suppress(OSError):
        descriptor = os.open(path, OPEN_FLAGS)
        try:
            found = os.fstat(descriptor)
            is_ours = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()
            if is_ours and found.st_size < layout.FILE_BYTES:
                os.posix_fallocate(descriptor, 0, layout.FILE_BYTES)
        finally:
            os.close(descriptor)


def _kept_host_id(path: Path, host_id: int) -> int:
    """Return the number that the lock file keeps for each new snapshot file.

    Call it under the lock.

    :param host_id: the one that it keeps from now on, if it keeps none
    """
    with suppress(OSError):
        descriptor = os.open(path.with_name(path.name + LOCK_SUFFIX), OPEN_FLAGS)
        try:
            kept = os.pread(descriptor, layout.WORD_BYTES, 0)
            if len(kept) == layout.WORD_BYTES:
                return int(struct.unpack("=Q", kept)[0])
            os.pwrite(descriptor, struct.pack("=Q", host_id), 0)
        finally:
            os.close(descriptor)
    return host_id


def _create(path: Path, namespace: str, host_id: int, note: bytes) -> None:
    """Put a new, empty file at *path*, whole from the first moment on; call it under the lock."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*"):
        leftover.unlink()  # of a process that was killed at this point
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        try:
            # Reserved now: a page that is not available when it is first written kills the process.
            os.posix_fallocate(descriptor, 0, layout.FILE_BYTES)
            header = (layout.MAGIC, layout.VERSION, layout.ROOM_BYTES, layout.SLOT_COUNT)
            os.pwrite(descriptor, struct.pack("=4Q", *header), 0)
            for word, value in (
                (layout.HOST_ID_WORD, host_id),
                (layout.OWNER_WORD, layout.owner_number(namespace)),
            ):
                os.pwrite(descriptor, struct.pack("=Q", value), word * layout.WORD_BYTES)
            os.pwrite(descriptor, note, layout.PLACE_WORD * layout.WORD_BYTES)
        finally:
            os.close(descriptor)
        Path(name).rename(path)
    except BaseException:
        Path(name).unlink()
        raise
