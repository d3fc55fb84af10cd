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
from itertools import chain
from pathlib import Path

from . import layout

__all__ = ["ListenerState", "ProcessSlot", "SlotTable", "start_ticks"]

# Words of a slot.
_PID, _STARTED, _ROLE, _WORKER, _LINEAGE, _REVISION, _SINCE_NS, _MASTER = range(8)
_FOLLOWS, _LISTENER, _LISTENER_SINCE_NS, _ERROR_LENGTH, _ERROR = range(8, 13)
_ERROR_BYTES = (layout.SLOT_WORDS - _ERROR) * layout.WORD_BYTES

#: What a process is, as a number in its slot.
ROLES = ("process", "worker", "mule", "spooler", "listener")
#: What its listener does, likewise: nothing there; hears Redis; Redis is away, or not to be used.
LISTENER_STATES = ("absent", "live", "polling")


@dataclass(frozen=True, slots=True)
class ListenerState:
    """What a listener does.

    :ivar state: ``live``, ``polling`` or ``absent``
    :ivar since: when it began to, in seconds since the epoch; 0 where nobody knows
    :ivar error: why it only polls, ``""`` where there is nothing to say
    """

    state: str = "absent"
    since: float = 0.0
    error: str = ""


@dataclass(frozen=True, slots=True)
class ProcessSlot:
    """One living process of the application on this host.

    :ivar role: ``worker``, ``mule``, ``spooler``, ``listener``, or ``process`` outside uWSGI
    :ivar worker: number of the worker or mule in its uWSGI instance, else 0
    :ivar master: pid of the uWSGI master, else 0
    :ivar lineage: the database it has the revision of
    :ivar revision: the revision it has applied
    :ivar since: when it applied that, as seconds since the epoch, for people to read
    :ivar follows: whether it is told of changes; one that is not sees them at its next request
    :ivar listener: what its listener does, where it has one
    """

    pid: int
    role: str
    worker: int
    master: int
    lineage: str
    revision: int
    since: float
    follows: bool
    listener: ListenerState


class SlotTable:
    """The slots of a mapped file, and the one of this process.

    :ivar applied: lineage and revision that this process has said to have applied, if any
    """

    def __init__(self, words: memoryview[int]) -> None:
        self._words = words
        self._mine: int | None = None
        self.applied: tuple[str, int] | None = None

    def claim(self, role: str, worker: int, master: int, *, follows: bool) -> bool:
        """Take a slot for this process; call it under the file's lock.

        :return: whether there was one left
        """
        pid = os.getpid()
        own = (start for start in _starts() if self._words[start] == pid)
        free = (start for start in _starts() if not self._lives(start))
        self._mine = next(chain(own, free), None)
        if self._mine is None:
            return False
        fields = [0] * layout.SLOT_WORDS
        fields[_STARTED] = start_ticks(pid)
        fields[_ROLE] = ROLES.index(role)
        fields[_WORKER] = worker
        fields[_MASTER] = master
        fields[_SINCE_NS] = time.time_ns()
        fields[_FOLLOWS] = int(follows)
        for position in range(_PID + 1, layout.SLOT_WORDS):
            self._words[self._mine + position] = fields[position]
        self._words[self._mine + _PID] = pid  # last: it makes the slot one
        return True

    def record(self, lineage: str, revision: int) -> None:
        """Say that this process has applied a revision."""
        self.applied = lineage, revision
        start = self._own()
        if start is not None:
            self._words[start + _LINEAGE] = int(lineage or "0", 16)
            self._words[start + _SINCE_NS] = time.time_ns()
            self._words[start + _REVISION] = revision

    def record_listener(self, state: str, error: str = "") -> None:
        """Say what the listener of this process does, if that is news."""
        start = self._own()
        if start is None:
            return
        number = LISTENER_STATES.index(state)
        if self._words[start + _LISTENER] != number:
            self._words[start + _LISTENER_SINCE_NS] = time.time_ns()
            self._words[start + _LISTENER] = number
        text = error.encode()[:_ERROR_BYTES]
        first = (start + _ERROR) * layout.WORD_BYTES
        self._words.cast("B")[first : first + len(text)] = text
        self._words[start + _ERROR_LENGTH] = len(text)

    def release(self) -> None:
        """Give this process's slot back."""
        start, self._mine = self._own(), None
        if start is not None:
            self._words[start] = 0

    def living(self) -> list[ProcessSlot]:
        """Return the living processes in order of their slots."""
        return [self._slot(start) for start in _starts() if self._lives(start)]

    def _own(self) -> int | None:
        """Return the position of this process's slot, which a parent's is not."""
        if self._mine is not None and self._words[self._mine] == os.getpid():
            return self._mine
        return None

    def _slot(self, start: int) -> ProcessSlot:
        """Return what a slot says; any bits may stand in it."""
        word = self._words[start : start + layout.SLOT_WORDS].tolist()
        first = (start + _ERROR) * layout.WORD_BYTES
        error = self._words.cast("B")[first : first + min(word[_ERROR_LENGTH], _ERROR_BYTES)]
        return ProcessSlot(
            pid=word[_PID],
            role=ROLES[word[_ROLE] % len(ROLES)],
            worker=word[_WORKER],
            master=word[_MASTER],
            lineage=f"{word[_LINEAGE]:016x}" if word[_LINEAGE] else "",
            revision=word[_REVISION],
            since=word[_SINCE_NS] / 1e9,
            follows=bool(word[_FOLLOWS]),
            listener=ListenerState(
                LISTENER_STATES[word[_LISTENER] % len(LISTENER_STATES)],
                word[_LISTENER_SINCE_NS] / 1e9,
                bytes(error).decode("utf-8", "replace"),
            ),
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


def _starts() -> Iterator[int]:
    """Yield the position of each slot's first word."""
    first = layout.SLOTS_OFFSET // layout.WORD_BYTES
    return iter(range(first, first + layout.SLOT_COUNT * layout.SLOT_WORDS, layout.SLOT_WORDS))
