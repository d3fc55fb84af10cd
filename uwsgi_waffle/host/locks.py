"""The locks of the host snapshot: held for microseconds, and never waited for without end."""

from __future__ import annotations

import fcntl
import os
import stat
import time
from contextlib import suppress
from pathlib import Path

__all__ = ["LOCK_IS_HELD", "LOCK_SUFFIX", "OPEN_FLAGS", "READER_WAIT_SECONDS", "locked"]

#: To open a file without following a link, or waiting for a pipe.
OPEN_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK

LOCK_SUFFIX = ".lock"
#: Seconds to wait for a lock that is held for microseconds: its holder is stopped, or hangs.
LOCK_SECONDS = 1.0
#: The same for a process that has read SQL, as a request may wait for it.
READER_WAIT_SECONDS = 0.05
LOCK_IS_HELD = "another process holds its lock"
#: Seconds between two tries to take a lock.
LOCK_RETRY_SECONDS = 0.001


class locked:  # noqa: N801  # used as a function is; a generator would cost each update two more calls
    """Hold the lock of a snapshot file.

    The lock file is opened anew each time: a descriptor inherited through a fork would share the
    parent's lock instead of competing for it.
    """

    def __init__(
        self, path: Path, suffix: str = LOCK_SUFFIX, *, wait_seconds: float | None = None
    ) -> None:
        """Take no lock yet.

        :param wait_seconds: how long to wait for it at most, after which the block runs without
            it; if left out, :data:`LOCK_SECONDS`, after which the block does not run
        """
        self._path = path.with_name(path.name + suffix)
        self._wait_seconds = wait_seconds
        self._descriptor = -1
        self._is_held = False

    def __enter__(self) -> bool:
        """Return whether the lock is held.

        :raises OSError: it cannot be opened, or belongs to another user, who could block us
        :raises TimeoutError: another process holds it for too long
        """
        mode = stat.S_IRUSR | stat.S_IWUSR
        self._descriptor = os.open(self._path, OPEN_FLAGS | os.O_CREAT, mode)
        try:
            owner = os.fstat(self._descriptor).st_uid
            if owner != os.geteuid():
                message = f"{self._path.name} belongs to user {owner}"
                raise PermissionError(message)  # noqa: TRY301  # a call less for each update
            with suppress(BlockingIOError):
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._is_held = True
            self._is_held = self._is_held or self._acquire()
        except BaseException:
            os.close(self._descriptor)
            raise
        return self._is_held

    def __exit__(self, *_: object) -> None:
        if self._is_held:
            # Closing it is not enough: a child forked meanwhile has the descriptor too, and would
            # hold the lock until it ends.
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        os.close(self._descriptor)

    def _acquire(self) -> bool:
        """Wait for the lock, and return whether it is held.

        By trying again: under gevent, a greenlet that waits within ``flock`` blocks the one of its
        own process that may hold the lock.
        """
        wait_seconds = LOCK_SECONDS if self._wait_seconds is None else self._wait_seconds
        deadline = time.monotonic() + wait_seconds
        while time.monotonic() < deadline:
            time.sleep(LOCK_RETRY_SECONDS)
            with suppress(BlockingIOError):
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
        if self._wait_seconds is None:
            message = f"another process has held {self._path.name} for {LOCK_SECONDS:g} s"
            raise TimeoutError(message)
        return False
