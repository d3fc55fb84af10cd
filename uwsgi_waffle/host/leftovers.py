"""Host snapshots that are of no use any more: their SQLite file is gone, and so are all processes.

Each is removed when the next one is made in the same directory. A file that says nothing of its
database, such as one at a path that the application chose, is left alone, and so is one whose
database may be where this process does not see it.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
from contextlib import suppress
from pathlib import Path

from . import layout
from .lives import unused

__all__ = ["NO_DATABASE", "database_in", "note_of", "sweep"]

#: Of a host snapshot that no sweep may remove.
NO_DATABASE = b""
#: Beside a host snapshot. The life locks go last: until then no process begins to use it.
_SUFFIXES = (".lock", ".reader", ".listeners", ".wakes", ".second", "", ".processes")
_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_NOTE = struct.Struct("=2Q")


def note_of(database: Path | None) -> bytes:
    """Return what a host snapshot says of its database, from :data:`layout.PLACE_WORD` on.

    :param database: a SQLite file, which may not have been made yet
    """
    if database is None:
        return NO_DATABASE
    text = os.fsencode(database)
    if len(text) > layout.DATABASE_BYTES:
        return NO_DATABASE
    try:
        return _NOTE.pack(_place_of(database), len(text)) + text
    except OSError:
        return NO_DATABASE


def database_in(words: memoryview[int]) -> Path | None:
    """Return the SQLite file that a host snapshot names, ``None`` where it names none.

    :param words: its first page, or more of it
    """
    length = words[layout.DATABASE_LENGTH_WORD]
    if not 0 < length <= layout.DATABASE_BYTES:
        return None
    first = layout.DATABASE_WORD * layout.WORD_BYTES
    return Path(os.fsdecode(bytes(words.cast("B")[first : first + length])))


def sweep(directory: Path) -> None:
    """Remove the host snapshots in a directory whose database is gone, and that no process uses."""
    for path in directory.glob(f"*.{layout.VERSION}.snapshot"):
        # Another process sweeps, too, or the file is not this user's.
        with suppress(OSError):
            if _is_left_over(path):
                _remove(path)


def _remove(path: Path) -> None:
    with unused(path) as is_unused:
        # Looked at again: a process may have made both anew since.
        if is_unused and _is_left_over(path):
            for suffix in _SUFFIXES:
                path.with_name(path.name + suffix).unlink(missing_ok=True)


def _is_left_over(path: Path) -> bool:
    """Return whether a host snapshot is this user's, and its database is gone.

    :raises OSError: that is not to be known
    """
    descriptor = os.open(path, _OPEN)
    try:
        found = os.fstat(descriptor)
        page = os.pread(descriptor, layout.PAGE_BYTES, 0)
    finally:
        os.close(descriptor)
    is_ours = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()
    if not is_ours or found.st_size != layout.FILE_BYTES:
        return False
    words = memoryview(page).cast("Q")
    head = words[layout.MAGIC_WORD], words[layout.VERSION_WORD]
    database = database_in(words) if head == (layout.MAGIC, layout.VERSION) else None
    if database is None:
        return False
    return _is_missing(database) and words[layout.PLACE_WORD] == _place_of(database)


def _is_missing(database: Path) -> bool:
    """Return whether there is no file.

    :raises OSError: that is not to be known
    """
    try:
        database.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    return False


def _place_of(path: Path) -> int:
    """Return a number for the file system that a path is on, as this process sees it.

    In another container or chroot a path is another file, and what lay on a file system that is
    not mounted now is not gone.

    :raises OSError: that is not to be known
    """
    directory = next(parent for parent in path.parents if not _is_missing(parent))
    root = Path("/").stat()
    seen_from = Path("/proc/self/ns/mnt").stat().st_ino, root.st_dev, root.st_ino
    text = repr((*seen_from, directory.stat().st_dev))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[: layout.WORD_BYTES], "big")
