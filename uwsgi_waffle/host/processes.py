"""The processes of this host, listed in the host snapshot: which state each of them serves.

A process writes its own slot only, word by word and without a lock; others only read it. Which
processes live is known by their :class:`LifeLocks`.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import Annotated

from pydantic import Field

from uwsgi_waffle.values.position import NOWHERE, Position
from uwsgi_waffle.values.snapshot import RefusedValue

from . import layout
from .lives import LifeLocks, pid_namespace

__all__ = ["ListenerState", "Moment", "ProcessSlot", "SlotTable"]

# Words of a slot. What is written last of a change, the stamp, stands before what is written first,
# the refusal: a reader copies upwards, so it never sees a new position with an old refusal.
_PID, _ROLE, _WORKER, _MASTER, _PID_NAMESPACE, _FOLLOWS, _EXPECTED = range(7)
_LINEAGE, _REVISION, _STAMP, _SINCE_NS = range(7, 11)
_LISTENER, _LISTENER_SINCE_NS, _ERROR_LENGTH, _ERROR = range(11, 15)
_ERROR_BYTES = 160
_REFUSED_COUNT = _ERROR + _ERROR_BYTES // layout.WORD_BYTES
_REFUSED_LENGTH, _REFUSED = _REFUSED_COUNT + 1, _REFUSED_COUNT + 2
_REFUSED_BYTES = 232
_CALLING_SINCE_NS = _REFUSED + _REFUSED_BYTES // layout.WORD_BYTES
_CALLING_LENGTH, _CALLING = _CALLING_SINCE_NS + 1, _CALLING_SINCE_NS + 2
_CALLING_BYTES = (layout.SLOT_WORDS - _CALLING) * layout.WORD_BYTES

#: The lock of a process that is waited for, beside that of its slot: its number after this one.
_FOLLOWERS = layout.SLOT_COUNT

#: What a process is, as a number in its slot.
ROLES = ("process", "worker", "mule", "spooler", "listener")
#: What its listener does, likewise: it has none; hears Redis and polls SQL; only polls SQL.
LISTENER_STATES = ("absent", "live", "polling")

#: Seconds since the epoch that can be shown as a date, where pydantic validates them: up to the
#: year 9999.
Moment = Annotated[float, Field(ge=0, le=253_402_300_799)]


@dataclass(frozen=True, slots=True)
class ListenerState:
    """What a listener does.

    :ivar state: ``live``, ``polling`` or ``absent``
    :ivar since: since when, in seconds since the epoch; 0 where that is not known
    :ivar error: why it only polls; ``""`` where there is no error
    """

    state: str = "absent"
    since: Moment = 0.0
    error: str = ""


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
    :ivar calling: the callback that runs in it, ``""`` where none does
    :ivar calling_since: since when, in seconds since the epoch; 0 where none does
    :ivar pid_namespace: in which :attr:`pid` and :attr:`master` are meant; 0 where not known
    """

    pid: int
    role: str
    worker: int
    master: int
    position: Position
    since: Moment
    follows: bool
    listener: ListenerState
    refused_count: int = 0
    refused: RefusedValue | None = None
    expected_workers: int = 0
    calling: str = ""
    calling_since: Moment = 0.0
    pid_namespace: int = 0

    @property
    def revision(self) -> int:
        """The revision of :attr:`position`."""
        return self.position.revision

    @property
    def instance(self) -> tuple[int, int]:
        """What identifies its uWSGI instance, as another container may have a master of its pid."""
        return self.pid_namespace, self.master


class SlotTable:
    """The slots of a mapped file, and the one of this process.

    What this process has recorded moves with it to another slot, and to another file.
    """

    _words: memoryview[int]
    _lives: LifeLocks | None

    def __init__(self) -> None:
        """List nothing; :meth:`move` gives it memory."""
        self._kept_lives: LifeLocks | None = None
        self._pid = 0
        self._mine: int | None = None
        self._identity = (0, 0, 0, 0, 0)
        self._recorded: tuple[Position, tuple[RefusedValue, ...]] = (NOWHERE, ())
        self._expected_workers = 0
        self._calling: tuple[str, int] = ("", 0)

    def move(self, words: memoryview[int], lives: LifeLocks | None) -> None:
        """Use the slots in *words*, none of which is this process's yet.

        :param lives: the locks of the file; ``None`` for memory that no other process sees
        """
        self._words = words
        self._lives = lives
        # Those of the file before show it that this process lives, until it is listed in another.
        self._kept_lives = lives or self._kept_lives
        self._mine = None

    def introduce(self, role: str, worker: int, master: int, *, follows: bool) -> None:
        """Set what this process is; :meth:`claim` lists it."""
        if self._pid != os.getpid():
            self._mine = None  # a parent's, and so is what was recorded
            self._recorded, self._expected_workers, self._calling = (NOWHERE, ()), 0, ("", 0)
        self._pid = os.getpid()
        self._identity = (ROLES.index(role), worker, master, pid_namespace(), int(follows))

    def claim(self) -> bool:
        """Take a slot for this process.

        :return: whether one was free
        :raises OSError: the file of the locks cannot be used
        """
        held = [] if self._lives is None else self._lives.held_here()
        # Of others those are free whose lock can be had. It may be held by a process that has not
        # seen yet that the file was replaced, though its slot is empty here.
        numbers = chain((n for n in held if n < _FOLLOWERS), range(layout.SLOT_COUNT))
        number = next((n for n in numbers if self._hold(n)), None)
        if number is None:
            return False
        if self.follows:
            self._hold(_FOLLOWERS + number)
        start = _start(number)
        for word in range(start, start + layout.SLOT_WORDS):
            self._words[word] = 0
        for word, value in enumerate(self._identity, start + _ROLE):
            self._words[word] = value
        self._words[start + _EXPECTED] = self._expected_workers
        self._write_callback(start)
        self._words[start + _PID] = self._pid  # last: it makes the slot one
        self._mine = start
        self.record(*self._recorded)
        return True

    @property
    def is_registered(self) -> bool:
        """Whether this process is to be listed."""
        return self._pid == os.getpid()

    @property
    def follows(self) -> bool:
        """Whether this process is to be listed as one that is woken for changes."""
        return self.is_registered and bool(self._identity[-1])

    def is_listed(self) -> bool:
        """Return whether other processes see this one in the list."""
        return self._own() is not None and (self._lives is None or self._lives.are_in_place())

    def record(self, position: Position, refused: tuple[RefusedValue, ...] = ()) -> None:
        """Record the state that this process serves, and what of it the process refuses."""
        self._recorded = position, refused
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
        self._expected_workers = count
        start = self._own()
        if start is not None:
            self._words[start + _EXPECTED] = count

    def record_callback(self, what: str) -> None:
        """Record the callback that runs in this process from now on, ``""`` for none."""
        self._calling = what, time.time_ns() if what else 0
        start = self._own()
        if start is not None:
            self._write_callback(start)

    def _write_callback(self, start: int) -> None:
        what, since_ns = self._calling
        self._words[start + _CALLING_SINCE_NS] = 0
        self._write_text(start + _CALLING, what, _CALLING_BYTES)
        self._words[start + _CALLING_SINCE_NS] = since_ns

    def release(self) -> None:
        """Give this process's slot back, and list it no more."""
        start, self._pid = self._own(), 0
        if start is not None:
            number = (start - _start(0)) // layout.SLOT_WORDS
            if self._lives is not None:
                self._lives.release(_FOLLOWERS + number)
            self._words[start + _PID] = 0
            if self._lives is not None:
                self._lives.release(number)

    def living(self) -> list[ProcessSlot]:
        """Return the living processes in order of their slots."""
        return [self._slot(number) for number in self._taken() if self._is_living(number)]

    def others(self) -> list[ProcessSlot]:
        """Return the living processes but this one, which another container may have the pid of."""
        lives = self._lives
        if lives is None:
            return []
        with suppress(OSError):  # the directory is gone, and with it the list
            return [self._slot(n) for n in self._taken() if lives.is_held_elsewhere(n)]
        return []

    def count_elsewhere(self) -> int:
        """Count the living processes that are waited for, and not listed here but in a file before.

        Or in memory of their own.
        """
        if self._lives is None:
            return 0
        with suppress(OSError):  # the directory is gone, and with it the list
            held = self._lives.held_within(_FOLLOWERS, 2 * _FOLLOWERS)
            return sum(not self._words[_start(n - _FOLLOWERS) + _PID] for n in held)
        return 0

    def _taken(self) -> list[int]:
        pids = self._words[_start(0) : _start(layout.SLOT_COUNT) : layout.SLOT_WORDS].tolist()
        return [number for number, pid in enumerate(pids) if pid]

    def _is_living(self, number: int) -> bool:
        """Return whether the slot is that of a living process."""
        start = _start(number)
        if not self._words[start + _PID]:
            return False
        return start == self._own() or (self._lives is not None and self._lives.is_held(number))

    def _hold(self, number: int) -> bool:
        return self._lives is None or self._lives.hold(number)

    def _own(self) -> int | None:
        """Return the first word of this process's slot; a parent's, or a lost one, is not."""
        start = self._mine
        if start is None or self._pid != os.getpid() or self._words[start + _PID] != self._pid:
            return None
        return start

    def _slot(self, number: int) -> ProcessSlot:
        """Return what a slot holds, which may be any bits."""
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
            calling=self._read_text(start + _CALLING, word[_CALLING_LENGTH], _CALLING_BYTES)
            if word[_CALLING_SINCE_NS]
            else "",
            calling_since=word[_CALLING_SINCE_NS] / 1e9,
            pid_namespace=word[_PID_NAMESPACE],
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
