"""The processes of this host, listed in the host snapshot: which state each of them serves.

A process writes its own slot only, word by word and without a lock; others only read it. Who lives
is told by a record lock that each process holds on one byte of a file beside the host snapshot:
the kernel drops it when the process ends or runs another program, and knows it across containers,
where a pid means nothing.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from uwsgi_waffle.values.position import NOWHERE, Position

from . import layout

__all__ = ["ListenerState", "ProcessSlot", "RefusedValue", "SlotTable"]

# Words of a slot. What is written last of a change, the stamp, stands before what is written first,
# the refusal: a reader copies upwards, so it never sees a new position with an old refusal.
_PID, _ROLE, _WORKER, _MASTER, _FOLLOWS, _EXPECTED = range(6)
_LINEAGE, _REVISION, _STAMP, _SINCE_NS = range(6, 10)
_LISTENER, _LISTENER_SINCE_NS, _ERROR_LENGTH, _ERROR = range(10, 14)
_ERROR_BYTES = 160
_REFUSED_COUNT = _ERROR + _ERROR_BYTES // layout.WORD_BYTES
_REFUSED_LENGTH, _REFUSED = _REFUSED_COUNT + 1, _REFUSED_COUNT + 2
_REFUSED_BYTES = (layout.SLOT_WORDS - _REFUSED) * layout.WORD_BYTES

#: What a process is, as a number in its slot.
ROLES = ("process", "worker", "mule", "spooler", "listener")
#: What its listener does, likewise: there is none; it hears Redis; it polls SQL only.
LISTENER_STATES = ("absent", "live", "polling")

#: struct flock of 64-bit Linux: type, whence, start, length, pid. See fcntl(2).
_FLOCK = struct.Struct("@hhqqi")


@dataclass(frozen=True, slots=True)
class ListenerState:
    """What a listener does.

    :ivar state: ``live``, ``polling`` or ``absent``
    :ivar since: since when, in seconds since the epoch; 0 where that is not known
    :ivar error: why it only polls; ``""`` where there is no error
    """

    state: str = "absent"
    since: float = 0.0
    error: str = ""


@dataclass(frozen=True, slots=True)
class RefusedValue:
    """A stored value that a process does not serve, as its release refuses it.

    :ivar name: the setting, ``""`` where the settings as a whole are refused
    :ivar serving: what is served instead
    :ivar reason: why, without the value of a secret
    """

    name: str
    serving: str
    reason: str


@dataclass(frozen=True, slots=True)
class ProcessSlot:
    """One living process of the application on this host.

    :ivar role: ``worker``, ``mule``, ``spooler``, ``listener``, or ``process`` outside uWSGI
    :ivar worker: number of the worker or mule in its uWSGI instance, else 0
    :ivar master: pid of the uWSGI master, else 0
    :ivar position: the state it serves
    :ivar since: since when, in seconds since the epoch, for people to read
    :ivar follows: whether it is woken for changes; one that is not sees them at its next request
    :ivar listener: what its listener does, where it has one
    :ivar refused_count: how many stored values it refuses
    :ivar refused: the first of those
    :ivar expected_workers: how many workers its uWSGI instance runs, as this process sees it; 0
        where it does not look
    """

    pid: int
    role: str
    worker: int
    master: int
    position: Position
    since: float
    follows: bool
    listener: ListenerState
    refused_count: int = 0
    refused: RefusedValue | None = None
    expected_workers: int = 0

    @property
    def revision(self) -> int:
        """The revision of :attr:`position`."""
        return self.position.revision


class SlotTable:
    """The slots of a mapped file, and the one of this process.

    :ivar served: the position that this process has recorded, if any
    """

    def __init__(self, words: memoryview[int], path: Path | None = None) -> None:
        """Use the slots in *words*.

        :param path: the snapshot file; ``None`` for private memory, where no other process is
        """
        self._words = words
        self._lives = None if path is None else LifeLocks(path)
        self._mine: int | None = None
        self._owner_pid = 0
        self.served: Position | None = None

    def claim(self, role: str, worker: int, master: int, *, follows: bool) -> bool:
        """Take a slot for this process; call it under the file's lock.

        :return: whether one was free
        :raises OSError: the file of the locks cannot be opened
        """
        pid = os.getpid()
        held = () if self._lives is None else self._lives.held_here()
        free = (n for n in range(layout.SLOT_COUNT) if not self._is_living(n))
        number = next(chain(held, free), None)
        if number is None:
            return False
        if self._lives is not None and not self._lives.hold(number):
            return False
        start = _start(number)
        fields = [0] * layout.SLOT_WORDS
        fields[_ROLE] = ROLES.index(role)
        fields[_WORKER] = worker
        fields[_MASTER] = master
        fields[_SINCE_NS] = time.time_ns()
        fields[_FOLLOWS] = int(follows)
        for word in range(_PID + 1, layout.SLOT_WORDS):
            self._words[start + word] = fields[word]
        self._words[start + _PID] = pid  # last: it makes the slot one
        self._mine, self._owner_pid = start, pid
        return True

    def is_listed(self) -> bool:
        """Return whether other processes see this one in the list."""
        return self._own() is not None and (self._lives is None or self._lives.are_in_place())

    def record(self, position: Position, refused: tuple[RefusedValue, ...] = ()) -> None:
        """Record the state that this process serves, and what of it the process refuses."""
        self.served = position
        start = self._own()
        if start is None:
            return
        self._words[start + _REFUSED_COUNT] = len(refused)
        if refused:
            first = refused[0]
            text = f"{first.name}\0{first.serving}\0{first.reason}"
            self._write_text(start + _REFUSED, text, _REFUSED_BYTES)
        self._words[start + _LINEAGE] = int(position.lineage or "0", 16)
        self._words[start + _REVISION] = position.revision
        self._words[start + _SINCE_NS] = time.time_ns()
        self._words[start + _STAMP] = int(position.stamp or "0", 16)

    def record_listener(self, state: str, error: str = "") -> None:
        """Record what the listener of this process does."""
        start = self._own()
        if start is None:
            return
        number = LISTENER_STATES.index(state)
        if self._words[start + _LISTENER] != number:
            self._words[start + _LISTENER_SINCE_NS] = time.time_ns()
            self._words[start + _LISTENER] = number
        self._write_text(start + _ERROR, error, _ERROR_BYTES)

    def record_expected_workers(self, count: int) -> None:
        """Record how many workers the uWSGI instance of this process runs."""
        start = self._own()
        if start is not None:
            self._words[start + _EXPECTED] = count

    def release(self) -> None:
        """Give this process's slot back."""
        start, self._mine = self._own(), None
        if start is not None:
            self._words[start] = 0
            if self._lives is not None:
                self._lives.release((start - _start(0)) // layout.SLOT_WORDS)

    def living(self) -> list[ProcessSlot]:
        """Return the living processes in order of their slots."""
        pids = self._words[_start(0) : _start(layout.SLOT_COUNT) : layout.SLOT_WORDS].tolist()
        return [self._slot(n) for n, pid in enumerate(pids) if pid and self._is_living(n)]

    def _is_living(self, number: int) -> bool:
        """Return whether the slot is that of a living process."""
        start = _start(number)
        if not self._words[start]:
            return False
        if start == self._own():
            return True
        return self._lives is not None and self._lives.is_held_elsewhere(number)

    def _own(self) -> int | None:
        """Return the position of this process's slot, which a parent's is not."""
        return self._mine if self._owner_pid == os.getpid() else None

    def _slot(self, number: int) -> ProcessSlot:
        """Return what a slot says; any bits may stand in it."""
        start = _start(number)
        word = self._words[start : start + layout.SLOT_WORDS].tolist()
        return ProcessSlot(
            pid=word[_PID],
            role=ROLES[word[_ROLE] % len(ROLES)],
            worker=word[_WORKER],
            master=word[_MASTER],
            position=position_of(word[_LINEAGE], word[_REVISION], word[_STAMP]),
            since=word[_SINCE_NS] / 1e9,
            follows=bool(word[_FOLLOWS]),
            listener=ListenerState(
                LISTENER_STATES[word[_LISTENER] % len(LISTENER_STATES)],
                word[_LISTENER_SINCE_NS] / 1e9,
                self._read_text(start + _ERROR, word[_ERROR_LENGTH], _ERROR_BYTES),
            ),
            refused_count=word[_REFUSED_COUNT],
            refused=self._refused(start, word) if word[_REFUSED_COUNT] else None,
            expected_workers=word[_EXPECTED],
        )

    def _refused(self, start: int, word: list[int]) -> RefusedValue:
        text = self._read_text(start + _REFUSED, word[_REFUSED_LENGTH], _REFUSED_BYTES)
        name, _, rest = text.partition("\0")
        serving, _, reason = rest.partition("\0")
        return RefusedValue(name, serving, reason)

    def _write_text(self, word: int, text: str, room_bytes: int) -> None:
        """Write a text, cut to its room, and its length into the word before it."""
        data = text.encode("utf-8", "replace")[:room_bytes]
        first = word * layout.WORD_BYTES
        self._words.cast("B")[first : first + len(data)] = data
        self._words[word - 1] = len(data)

    def _read_text(self, word: int, length: int, room_bytes: int) -> str:
        first = word * layout.WORD_BYTES
        data = self._words.cast("B")[first : first + min(length, room_bytes)]
        return bytes(data).decode("utf-8", "ignore")


def position_of(lineage: int, revision: int, stamp: int) -> Position:
    """Return the position that three words hold."""
    if not lineage:
        return NOWHERE
    return Position(f"{lineage:016x}", revision, f"{stamp:016x}" if stamp else "")


def _start(number: int) -> int:
    """Return the first word of a slot."""
    return layout.SLOTS_OFFSET // layout.WORD_BYTES + number * layout.SLOT_WORDS


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

    def held_here(self) -> Iterator[int]:
        """Yield the slots that this process holds."""
        yield from sorted(self._file().held)

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

    def is_held_elsewhere(self, number: int) -> bool:
        """Return whether another living process holds the lock of a slot."""
        with suppress(OSError):  # the directory is gone, and with it the list
            file = self._file()
            asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, number, 1, 0)
            found = _FLOCK.unpack(fcntl.fcntl(file.descriptor, fcntl.F_GETLK, asked))
            return number in file.held or bool(found[0] != fcntl.F_UNLCK)
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

        :raises OSError: it cannot be opened
        """
        file = _lock_files.get(self._path)
        if file is not None and not self.are_in_place():
            del _lock_files[self._path]
            os.close(file.descriptor)
            file = None
        if file is None:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            file = _LockFile(os.open(self._path, flags, 0o600), os.getpid(), set())
            _lock_files[self._path] = file
        if file.pid != os.getpid():  # a child: it holds none of its parent's locks
            file.pid, file.held = os.getpid(), set()
        return file


def _is_same(one: os.stat_result, other: os.stat_result) -> bool:
    return (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
