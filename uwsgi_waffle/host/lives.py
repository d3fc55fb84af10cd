"""Life locks: which of the processes listed in the host snapshot live, and which of them listens.

Each process holds a record lock on one byte of a file beside the host snapshot. The kernel drops it
when the process ends or runs another program, and knows it across containers, where a pid means
nothing. Unlike ``flock``, it does not pass to children.
"""

from __future__ import annotations

import fcntl
import os
import struct
import threading
import weakref
from contextlib import suppress
from pathlib import Path

__all__ = ["LifeLocks"]

#: struct flock of 64-bit Linux: type, whence, start, length, pid. See fcntl(2).
_FLOCK = struct.Struct("@hhqqi")
#: Seconds to wait for another thread that opens a file; a parent may have held the lock at a fork.
_OPEN_SECONDS = 1.0


class _LockFile:
    """The open file of the locks, and the slots that this process holds there."""

    def __init__(self, path: Path) -> None:
        """Open the file.

        :raises OSError: it cannot be opened, or belongs to another user, who could hold any lock
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self.descriptor = os.open(path, flags, 0o600)
        weakref.finalize(self, os.close, self.descriptor).atexit = False
        found = os.fstat(self.descriptor)
        if found.st_uid != os.geteuid():
            message = f"{path.name} belongs to user {found.st_uid}"
            raise PermissionError(message)
        self._identity = found.st_dev, found.st_ino
        self.pid = os.getpid()
        self.held: set[int] = set()

    def is_at(self, path: Path) -> bool:
        """Return whether this is the file that others open."""
        with suppress(OSError):
            found = path.lstat()
            return (found.st_dev, found.st_ino) == self._identity
        return False


#: Path -> its file. One for all uses in this process, as to close any descriptor of a file drops
#: every record lock that the process has on it.
_lock_files: weakref.WeakValueDictionary[Path, _LockFile] = weakref.WeakValueDictionary()
_opening = threading.Lock()


class LifeLocks:
    """The record locks of one host snapshot: byte *n* is held by the process in slot *n*."""

    def __init__(self, snapshot_path: Path, suffix: str = ".processes") -> None:
        """Open nothing yet.

        :param suffix: of the file's name; another one is for what else a process may hold
        """
        self._path = snapshot_path.with_name(snapshot_path.name + suffix)
        self._used: _LockFile | None = None

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
            # The kernel names the locks of other processes only.
            return number in self._file().held or self.is_held_elsewhere(number)
        return False

    def is_held_elsewhere(self, number: int) -> bool:
        """Return whether another process holds the lock of a slot.

        :raises OSError: the file of the locks cannot be used
        """
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, number, 1, 0)
        found = _FLOCK.unpack(fcntl.fcntl(self._file().descriptor, fcntl.F_GETLK, asked))
        return bool(found[0] != fcntl.F_UNLCK)

    def are_in_place(self) -> bool:
        """Return whether the file of the locks is the one that others open."""
        return self._used is not None and self._used.is_at(self._path)

    def _file(self) -> _LockFile:
        """Return the open file of the locks.

        :raises OSError: it cannot be used
        """
        file = self._used
        if file is None or not file.is_at(self._path):
            is_alone = _opening.acquire(timeout=_OPEN_SECONDS)
            try:
                file = _lock_files.get(self._path)
                if file is None or not file.is_at(self._path):
                    file = _lock_files[self._path] = _LockFile(self._path)
            finally:
                if is_alone:
                    _opening.release()
            self._used = file
        if file.pid != os.getpid():  # a child: it holds none of its parent's locks
            file.pid, file.held = os.getpid(), set()
        return file
