"""Life locks: which of the processes listed in the host snapshot live.

Each process holds a record lock on one byte of a file beside the host snapshot. The kernel drops it
when the process ends or runs another program, and knows it across containers, where a pid means
nothing.
"""

from __future__ import annotations

import fcntl
import os
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = ["LifeLocks"]

#: struct flock of 64-bit Linux: type, whence, start, length, pid. See fcntl(2).
_FLOCK = struct.Struct("@hhqqi")

#: Path of a lock file -> its descriptor, and the slot numbers that this process holds. One each, as
#: to close any descriptor of a file drops every record lock that the process has on it.
_lock_files: dict[Path, _LockFile] = {}


@dataclass(slots=True)
class _LockFile:
    descriptor: int
    pid: int
    held: set[int]


class LifeLocks:
    """The record locks of one host snapshot: byte *n* is held by the process in slot *n*."""

    def __init__(self, snapshot_path: Path) -> None:
        self._path = snapshot_path.with_name(snapshot_path.name + ".processes")

    def held_here(self) -> list[int]:
        """Return the slots that this process holds.

        :raises OSError: the file of the locks cannot be used
        """
        return sorted(self._file().held)

    def hold(self, number: int) -> bool:
        """Take the lock of a slot, and return whether it is held."""
        file = self._file()
        try:
            fcntl.lockf(file.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except (BlockingIOError, PermissionError):
            return False
        file.held.add(number)
        return True

    def release(self, number: int) -> None:
        """Drop the lock of a slot."""
        file = self._file()
        file.held.discard(number)
        fcntl.lockf(file.descriptor, fcntl.LOCK_UN, 1, number)

    def is_held(self, number: int) -> bool:
        """Return whether a living process holds the lock of a slot."""
        with suppress(OSError):  # the directory is gone, and with it the list
            file = self._file()
            if number in file.held:
                return True  # the kernel names the locks of other processes only
            asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, number, 1, 0)
            found = _FLOCK.unpack(fcntl.fcntl(file.descriptor, fcntl.F_GETLK, asked))
            return bool(found[0] != fcntl.F_UNLCK)
        return False

    def are_in_place(self) -> bool:
        """Return whether the file of the locks is the one that others open."""
        file = _lock_files.get(self._path)
        with suppress(OSError):
            found = self._path.lstat()
            return file is not None and _is_same(os.fstat(file.descriptor), found)
        return False

    def _file(self) -> _LockFile:
        """Return the open file of the locks.

        :raises OSError: it cannot be opened, or belongs to another user, who could hold any lock
        """
        file = _lock_files.get(self._path)
        if file is not None and not self.are_in_place():
            if _lock_files.pop(self._path, None) is file:  # not closed by another thread
                os.close(file.descriptor)
            file = None
        if file is None:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(self._path, flags, 0o600)
            owner = os.fstat(descriptor).st_uid
            if owner != os.geteuid():
                os.close(descriptor)
                message = f"{self._path.name} belongs to user {owner}"
                raise PermissionError(message)
            file = _LockFile(descriptor, os.getpid(), set())
            _lock_files[self._path] = file
        if file.pid != os.getpid():  # a child: it holds none of its parent's locks
            file.pid, file.held = os.getpid(), set()
        return file


def _is_same(one: os.stat_result, other: os.stat_result) -> bool:
    return (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
