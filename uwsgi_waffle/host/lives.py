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
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["LifeLocks", "pid_namespace", "unused"]

#: struct flock of 64-bit Linux: type, whence, start, length, pid. See fcntl(2).
_FLOCK = struct.Struct("@hhqqi")
#: Seconds to wait for another thread that opens a file; a parent may have held the lock at a fork.
_OPEN_SECONDS = 1.0
#: The byte that each process shares which has opened the file; those of slots are before it.
_IN_USE = 1 << 62
#: Seconds to wait for a sweep, which takes microseconds, and between two looks.
_SWEEP_SECONDS = 1.0
_SWEEP_RETRY_SECONDS = 0.001


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
        self.pid = 0
        self.held: set[int] = set()

    def enter(self) -> None:
        """Hold nothing but the byte of those that use it: this is another process than before.

        A sweep that is stopped is not waited for: what it removes later is found out like any
        other file that is deleted.
        """
        self.pid, self.held = os.getpid(), set()
        deadline = time.monotonic() + _SWEEP_SECONDS
        while not self._lock(fcntl.LOCK_SH, 1, _IN_USE) and time.monotonic() < deadline:
            time.sleep(_SWEEP_RETRY_SECONDS)

    def hold(self, number: int) -> bool:
        """Take the lock of a slot, and return whether it is held."""
        is_held = self._lock(fcntl.LOCK_EX, 1, number)
        if is_held:
            self.held.add(number)
        return is_held

    def hold_all(self) -> bool:
        """Take every lock, and return whether they are held: no other process uses the file."""
        return self._lock(fcntl.LOCK_EX, 0, 0)

    def _lock(self, kind: int, length: int, start: int) -> bool:
        try:
            fcntl.lockf(self.descriptor, kind | fcntl.LOCK_NB, length, start)
        except (BlockingIOError, PermissionError):
            return False
        return True

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
        self._path = _path_of_locks(snapshot_path, suffix)
        self._used: _LockFile | None = None

    def held_here(self) -> list[int]:
        """Return the slots that this process holds.

        :raises OSError: the file of the locks cannot be used
        """
        return sorted(self._file().held)

    def hold(self, number: int) -> bool:
        """Take the lock of a slot, and return whether it is held."""
        return self._file().hold(number)

    def release(self, number: int) -> None:
        """Drop the lock of a slot."""
        with suppress(OSError):  # the directory is gone, and the lock with it
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

    def held_within(self, first: int, end: int) -> set[int]:
        """Return which locks of a range living processes hold.

        :raises OSError: the file of the locks cannot be used
        """
        file = self._file()
        held = {number for number in file.held if first <= number < end}
        ranges = [(first, end)]
        while ranges:
            start, stop = ranges.pop()
            if start == stop:
                continue
            asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, stop - start, 0)
            kind, _, number, *_ = _FLOCK.unpack(fcntl.fcntl(file.descriptor, fcntl.F_GETLK, asked))
            # It names any of those there. One that begins before them is that of a sweep.
            if kind != fcntl.F_UNLCK and number >= start:
                held.add(number)
                ranges += [(start, number), (number + 1, stop)]
        return held

    def are_in_place(self) -> bool:
        """Return whether the file of the locks is the one that others open."""
        return self._used is not None and self._used.is_at(self._path)

    def _file(self) -> _LockFile:
        """Return the open file of the locks.

        :raises OSError: it cannot be used
        """
        file = self._used
        while file is None or not file.is_at(self._path):
            is_alone = _opening.acquire(timeout=_OPEN_SECONDS)
            try:
                file = _lock_files.get(self._path)
                if file is None or not file.is_at(self._path):
                    file = _lock_files[self._path] = _LockFile(self._path)
                    file.enter()  # a sweep may have removed it meanwhile, hence the loop
            finally:
                if is_alone:
                    _opening.release()
            self._used = file
        if file.pid != os.getpid():  # a child: it holds none of its parent's locks
            file.enter()
        return file


@contextmanager
def unused(snapshot_path: Path) -> Iterator[bool]:
    """Keep processes from using a host snapshot, and yield whether no other one does.

    :raises OSError: the file of the locks cannot be used
    """
    path = _path_of_locks(snapshot_path)
    is_alone = _opening.acquire(timeout=_OPEN_SECONDS)
    try:
        # One that this process has open is not opened again: see `_lock_files`.
        file = _LockFile(path) if is_alone and path not in _lock_files else None
        yield file is not None and file.hold_all()
        del file
    finally:
        if is_alone:
            _opening.release()


def _path_of_locks(snapshot_path: Path, suffix: str = ".processes") -> Path:
    return snapshot_path.with_name(snapshot_path.name + suffix)


def pid_namespace() -> int:
    """Return a number for this process's pid namespace: two containers may both have a pid 1."""
    with suppress(OSError):
        return Path("/proc/self/ns/pid").stat().st_ino & 0xFFFF_FFFF
    return 0
