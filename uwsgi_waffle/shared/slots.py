"""The list of living processes in the host snapshot: which of them has applied which revision.

A process writes its own slot only, word by word and without a lock; others only read it. A slot
whose process is gone is free.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from . import layout

__all__ = ["ProcessSlot", "SlotTable"]

_PID, _STARTED, _ROLE, _WORKER, _LINEAGE, _REVISION, _SINCE_NS, _MASTER = range(layout.SLOT_WORDS)

#: What a process is, as a number in its slot.
ROLES = ("process", "worker", "mule", "spooler", "listener", "command")


@dataclass(frozen=True, slots=True)
class ProcessSlot:
    """One living process of the application on this host.

    :ivar role: ``worker``, ``mule``, ``spooler``, ``listener``, ``command``, or ``process``
        outside uWSGI
    :ivar worker: number of the worker or mule in its uWSGI instance, else 0
    :ivar master: pid of the uWSGI master, else 0
    :ivar revision: the revision it has applied
    :ivar since: when it applied that, as seconds since the epoch, for people to read
    """

    pid: int
    role: str
    worker: int
    master: int
    lineage: str
    revision: int
    since: float


class SlotTable:
    """The slots of a mapped file, and the one of this process."""

    def __init__(self, words: memoryview[int]) -> None:
        self._words = words
        self._mine: int | None = None

    def claim(self, role: str, worker: int, master: int) -> bool:
        """Take a slot for this process; call it under the file's lock.

        :return: whether there was one left
        """
        pid, started = os.getpid(), start_ticks(os.getpid())
        for index in range(layout.SLOT_COUNT):
            start = _offset(index)
            if self._words[start] == pid or not self._lives(start):
                for position, word in (
                    (_STARTED, started),
                    (_ROLE, ROLES.index(role)),
                    (_WORKER, worker),
                    (_MASTER, master),
                    (_LINEAGE, 0),
                    (_REVISION, 0),
                    (_SINCE_NS, time.time_ns()),
                    (_PID, pid),  # last: it makes the slot one
                ):
                    self._words[start + position] = word
                self._mine = start
                return True
        self._mine = None
        return False

    def record(self, lineage: str, revision: int) -> None:
        """Say that this process has applied a revision."""
        start = self._mine
        if start is not None and self._words[start] == os.getpid():
            self._words[start + _LINEAGE] = int(lineage or "0", 16)
            self._words[start + _SINCE_NS] = time.time_ns()
            self._words[start + _REVISION] = revision

    def release(self) -> None:
        """Give this process's slot back."""
        start, self._mine = self._mine, None
        if start is not None and self._words[start] == os.getpid():
            self._words[start] = 0

    def living(self) -> Iterator[ProcessSlot]:
        """Yield the living processes in order of their slots."""
        for index in range(layout.SLOT_COUNT):
            start = _offset(index)
            if self._words[start] and self._lives(start):
                word = self._words[start : start + layout.SLOT_WORDS].tolist()
                role = ROLES[word[_ROLE]] if word[_ROLE] < len(ROLES) else ROLES[0]
                yield ProcessSlot(
                    pid=word[_PID],
                    role=role,
                    worker=word[_WORKER],
                    master=word[_MASTER],
                    lineage=f"{word[_LINEAGE]:016x}" if word[_LINEAGE] else "",
                    revision=word[_REVISION],
                    since=word[_SINCE_NS] / 1e9,
                )

    def _lives(self, start: int) -> bool:
        """Return whether a slot's process is there, and is not another one of the same number."""
        pid = self._words[start]
        return bool(pid) and start_ticks(pid) == self._words[start + _STARTED]


def start_ticks(pid: int) -> int:
    """Return when a process started, in clock ticks since boot; 0 where there is none.

    A pid is used again; together with this it is not. Field 22 of ``/proc/<pid>/stat``, see
    proc(5); without ``/proc`` 1 for any living process.
    """
    with suppress(OSError, ValueError, IndexError):
        # The command's name, in parentheses, may hold anything, so count from behind it.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return 0 if fields[0] in (b"Z", b"X") else int(fields[19])
    if Path("/proc/self/stat").exists() or pid <= 0:
        return 0
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return 0
    except PermissionError:
        return 1
    return 1


def _offset(index: int) -> int:
    """Return the position of a slot's first word."""
    return layout.SLOTS_OFFSET // layout.WORD_BYTES + index * layout.SLOT_WORDS
