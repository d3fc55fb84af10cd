"""One listener for each uWSGI instance: a lock that the kernel drops when its process ends."""

from __future__ import annotations

import fcntl
import logging
import os
from contextlib import suppress
from pathlib import Path

__all__ = ["Election"]

logger = logging.getLogger(__name__)

#: (pid, file, instance) -> the candidate of that process that won: a record lock excludes other
#: processes only, and one process may hold several applications of one namespace.
_winners: dict[tuple[int, Path, int], Election] = {}


class Election:
    """A candidate for the listener of one instance.

    The lock is a record lock on one byte of a file beside the host snapshot. The byte's number is
    the instance's, so instances that share the host snapshot do not compete. Record locks, unlike
    ``flock``, do not pass to children.
    """

    def __init__(self, snapshot_path: Path, master_pid: int) -> None:
        """Stand for the instance whose master has that pid."""
        self._path = snapshot_path.with_name(snapshot_path.name + ".listeners")
        self._instance = _pid_namespace() << 31 | master_pid
        self._descriptor: int | None = None

    def win(self) -> bool:
        """Try to become the listener, and return whether this process is it now.

        If the lock file cannot be opened, return True: two listeners are harmless, none is not.
        """
        if _winners.setdefault(self._key(), self) is not self:
            return False
        try:
            won = self._lock()
        except OSError as error:
            logger.warning(
                "waffle: no listener can be elected (%s), so each candidate listens.",
                error,
            )
            return True
        if not won:
            del _winners[self._key()]
        return won

    def resign(self) -> None:
        """Leave the lock to another candidate."""
        if _winners.get(self._key()) is not self:
            return
        if self._descriptor is not None:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, self._instance)
        del _winners[self._key()]

    def _lock(self) -> bool:
        if self._descriptor is None:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            # Never closed: to close any descriptor of the file drops every lock on it.
            self._descriptor = os.open(self._path, flags, 0o600)
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, self._instance)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def _key(self) -> tuple[int, Path, int]:
        return os.getpid(), self._path, self._instance


def _pid_namespace() -> int:
    """Return a number for this process's pid namespace: two containers may both have a pid 1."""
    with suppress(OSError):
        return Path("/proc/self/ns/pid").stat().st_ino & 0xFFFF_FFFF
    return 0
