"""Reading and writing the host snapshot.

It is written under ``flock`` and read without a lock: a reader copies a record, then believes it
only if its CRC is right. Where the file cannot be used, private memory of the same layout takes its
place; each process then asks SQL for itself, which is later but no less right.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

from uwsgi_waffle.values.position import NOWHERE, Position
from uwsgi_waffle.values.snapshot import Record

from . import layout
from .files import MappedFile, RefusedFile, check_held, locked, open_file
from .processes import SlotTable, position_of

__all__ = ["HostSnapshot", "encode_record"]

logger = logging.getLogger(__name__)

#: How often a torn read is tried again before SQL is asked.
READ_ATTEMPTS = 20

T = TypeVar("T")


class _Area(NamedTuple):
    """A checked copy of what an area holds."""

    sequence: int
    position: Position
    payload: bytes


class HostSnapshot:
    """The latest record that any process of this host has seen.

    :ivar words: the memory as native unsigned 64-bit words, for the compare at each request
    :ivar slots: the processes of this host
    """

    words: memoryview[int]
    slots: SlotTable

    def __init__(self, path: Path, namespace: str = "default") -> None:
        """Map the file at *path*, made or replaced; where that fails, log it and go on without."""
        self.path = path
        self._namespace = namespace
        self._file: MappedFile | None = None
        self._registered: tuple[str, int, int, bool] | None = None
        self._logged: set[str] = set()
        self._keys: tuple[int, tuple[str, ...]] = (0, ())
        self._new_host_id = secrets.randbits(64)
        #: Why other processes do not see what is written here, ``None`` where they do.
        self.not_shared_reason: str | None = None
        self._open()

    @property
    def is_shared(self) -> bool:
        """Whether other processes see what is written here."""
        return self._file is not None

    def _open(self) -> None:
        """Map the file, or private memory where it cannot be used."""
        try:
            file = open_file(self.path, self._namespace, self._new_host_id)
        except (RefusedFile, OSError) as error:
            if self._file is not None or not hasattr(self, "words"):
                self._use_private_memory(error)
            # Else this process has private memory already, and keeps what is in it.
        else:
            self.not_shared_reason = None
            self._use(file.words, file)

    def _use_private_memory(self, error: Exception) -> None:
        """Switch to private memory, and log why."""
        self.not_shared_reason = str(error)
        logger.warning(
            "waffle: the host snapshot %s cannot be used (%s). Each process asks SQL for "
            "itself until it can; changes are seen later than usual.",
            self.path,
            error,
        )
        words = memoryview(bytearray(layout.FILE_BYTES)).cast("Q")
        words[layout.HOST_ID_WORD] = self._new_host_id
        self._use(words, None)

    def _use(self, words: memoryview[int], file: MappedFile | None) -> None:
        """Switch to another mapping and mark the old one abandoned."""
        before, self._file = self._file, file
        served = self.slots.served if hasattr(self, "slots") else None
        self.words = words
        self.slots = SlotTable(words, None if file is None else self.path)
        self._new_host_id = words[layout.HOST_ID_WORD]
        if before is not None and not before.is_in_place():
            before.abandon()
        if self._registered is not None:
            role, worker, master, follows = self._registered
            self.register(role, worker, master, follows=follows)
        if served is not None:
            self.slots.record(served)

    def verify(self) -> bool:
        """Map the file anew if it is no longer the one at its path, and return whether it was so.

        It may have been deleted, replaced or cut short.
        """
        if self._file is not None and self._file.is_in_place():
            self._relist_if_needed()
            return False
        was_shared = self.is_shared
        self._open()
        return was_shared or self.is_shared

    def _relist_if_needed(self) -> None:
        """List this process again where the file of the life locks was deleted."""
        if self._registered is None or self.slots.served is None or self.slots.is_listed():
            return
        role, worker, master, follows = self._registered
        served = self.slots.served
        self.register(role, worker, master, follows=follows)
        self.slots.record(served)

    def register(
        self, role: str, worker: int = 0, master: int = 0, *, follows: bool = False
    ) -> None:
        """List this process among those of the host.

        :param follows: whether it is woken for changes
        """
        self._registered = (role, worker, master, follows)
        listed = self._exclusively(lambda: self.slots.claim(role, worker, master, follows=follows))
        if not listed:
            logger.warning(
                "waffle: the host snapshot %s lists %d processes already, so this one (pid %d) "
                "does not show in status. It serves the settings like any other.",
                self.path,
                layout.SLOT_COUNT,
                os.getpid(),
            )

    # -- records ------------------------------------------------------------------------------

    @property
    def host_id(self) -> str:
        """16 hexadecimal digits that tell this host, which is this file, from others."""
        return f"{self.words[layout.HOST_ID_WORD]:016x}"

    @property
    def sequence(self) -> int:
        """Number of the latest record; it moves on with each."""
        return self.words[layout.SEQUENCE_WORD]

    @property
    def position(self) -> Position:
        """The position of the latest record."""
        found = self._latest()
        return NOWHERE if found is None else found.position

    def read(self) -> tuple[int, Record] | None:
        """Return the latest record and its sequence number.

        :return: ``None`` where there is none yet, or it is damaged; SQL has it
        """
        found = self._latest()
        if found is None:
            return None
        rows, keys = json.loads(found.payload)
        return found.sequence, Record(found.position, rows, tuple(keys))

    def _latest(self) -> _Area | None:
        """Return the area in use, ``None`` where there is none yet, or it is damaged."""
        found = self._in_use()
        if found is None and self.sequence and self.verify():
            found = self._in_use()  # it was not damaged, but abandoned
        if found is None and self.sequence:
            self._log_once(
                "damaged",
                "waffle: the record in the host snapshot %s is damaged. It is read from SQL, and "
                "written anew.",
                self.path,
            )
        return found

    def _log_once(self, code: str, message: str, *arguments: object) -> None:
        if code not in self._logged:
            self._logged.add(code)
            logger.warning(message, *arguments)

    def _in_use(self) -> _Area | None:
        """Return the area in use in the present mapping, ``None`` as :meth:`_latest`."""
        for _ in range(READ_ATTEMPTS):
            sequence = self.sequence
            if sequence == 0:
                return None
            area = self._copy_area(sequence)
            if area is not None:
                return area
        return None

    def publish(self, record: Record, *, at_start: bool = False) -> int | None:
        """Make *record* the latest; never goes back within a lineage.

        :param at_start: accept the empty record of a database that was emptied as well, where no
            other process of this host is listed
        :return: its sequence number, ``None`` where a later record stays the latest, or this one
            is too large
        """
        payload = encode_record(record)
        if len(payload) > layout.ROOM_BYTES:
            self._log_once(
                "too large",
                "waffle: the settings in SQL take %d bytes, and the host snapshot has room for "
                "%d. The last known settings are served; reset or shorten a large one.",
                len(payload),
                layout.ROOM_BYTES,
            )
            return None
        return self._exclusively(lambda: self._publish(record, payload, at_start=at_start))

    def _exclusively(self, act: Callable[[], T]) -> T:
        """Write to the file, alone; to private memory where the lock cannot be had.

        *act* must not log: under gevent that may switch to a greenlet that waits for the lock.
        """
        while self.is_shared:
            if self._file is not None and not self._file.is_in_place():
                self._open()
                continue
            try:
                with locked(self.path) as held:
                    check_held(self.path, held=held)
                    # A process that replaces the file holds the lock too, so it now stays in place.
                    if self._file is not None and self._file.is_in_place():
                        return act()
            except OSError as error:
                self._use_private_memory(error)
        return act()

    def _publish(self, record: Record, payload: bytes, *, at_start: bool) -> int | None:
        found = self._in_use()
        if found is not None and not record.position.supersedes(found.position):
            is_emptied = not record.position.exists and found.position.exists
            if not (is_emptied and at_start and self._is_alone()):
                return None
        # From a random start, so that no file repeats a number that a process has seen in another.
        # Garbage may have been left in it, too: after the largest number comes one that is not 0.
        sequence = ((self.sequence or secrets.randbits(62)) + 1) & layout.WORD_MAX or 2
        self._write_area(sequence, record.position, payload)
        self.words[layout.SEQUENCE_WORD] = sequence
        self._logged.clear()
        return sequence

    def _is_alone(self) -> bool:
        return all(process.pid == os.getpid() for process in self.slots.living())

    def _copy_area(self, sequence: int) -> _Area | None:
        """Return a copy of an area; ``None`` where a process is writing to it, or it is damaged."""
        start = layout.area_offset(sequence)
        word = start // layout.WORD_BYTES
        header = self.words[word : word + layout.AREA_HEADER_WORDS].tolist()
        length = header[layout.AREA_LENGTH]
        if header[layout.AREA_SEQUENCE] != sequence or length > layout.ROOM_BYTES:
            return None
        first = start + layout.AREA_HEADER_BYTES
        payload = bytes(self.words.cast("B")[first : first + length])
        if _crc(header, payload) != header[layout.AREA_CRC]:
            return None
        position = position_of(
            header[layout.AREA_LINEAGE], header[layout.AREA_REVISION], header[layout.AREA_STAMP]
        )
        return _Area(sequence, position, payload)

    def _write_area(self, sequence: int, position: Position, payload: bytes) -> None:
        """Write a record into the area that is not in use."""
        header = [0] * layout.AREA_HEADER_WORDS
        header[layout.AREA_SEQUENCE] = sequence
        header[layout.AREA_LINEAGE] = int(position.lineage or "0", 16)
        header[layout.AREA_REVISION] = position.revision
        header[layout.AREA_STAMP] = int(position.stamp or "0", 16)
        header[layout.AREA_LENGTH] = len(payload)
        header[layout.AREA_CRC] = _crc(header, payload)
        start = layout.area_offset(sequence)
        word = start // layout.WORD_BYTES
        memory = self.words.cast("B")
        memory[start + layout.AREA_HEADER_BYTES :][: len(payload)] = payload
        for offset, value in enumerate(header):
            self.words[word + offset] = value

    # -- listeners ---------------------------------------------------------------------------

    def beat(self) -> None:
        """Record that a listener of this host has just compared it with SQL."""
        self.words[layout.HEARTBEAT_WORD] = time.monotonic_ns()

    def heartbeat_age_seconds(self) -> float | None:
        """Return how long ago a listener did, ``None`` where none has since the boot."""
        beat = self.words[layout.HEARTBEAT_WORD]
        age = time.monotonic_ns() - beat
        # A file on a disk outlives the boot whose clock it holds.
        return age / 1e9 if beat and age >= 0 else None

    def claim_report(self, every_seconds: float) -> bool:
        """Return whether it is time to report this host, which then counts as done."""
        now = time.monotonic_ns()
        if 0 <= now - self.words[layout.REPORTED_WORD] < every_seconds * 1e9:
            return False
        self.words[layout.REPORTED_WORD] = now
        return True

    def count_ignored(self, count: int) -> None:
        """Count messages that were malformed or forged."""
        self.words[layout.IGNORED_WORD] = (self.ignored_count + count) & layout.WORD_MAX

    @property
    def ignored_count(self) -> int:
        """How many messages were malformed or forged since the file was made."""
        return self.words[layout.IGNORED_WORD]

    @property
    def keys(self) -> tuple[str, ...]:
        """What signs the messages between hosts; empty before the first record."""
        sequence = self.sequence
        if self._keys[0] != sequence:
            found = self.read()
            self._keys = (sequence, () if found is None else found[1].keys)
        return self._keys[1]


def encode_record(record: Record) -> bytes:
    """Return the rows and keys of a record as the host snapshot holds them."""
    return json.dumps([dict(record.rows), record.keys], separators=(",", ":")).encode()


def _crc(header: list[int], payload: bytes) -> int:
    """Return the CRC of a record and of everything in its header but the CRC."""
    start = zlib.crc32(repr(header[: layout.AREA_CRC]).encode())
    return zlib.crc32(payload, start)
