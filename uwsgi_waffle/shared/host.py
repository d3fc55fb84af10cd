"""Reading and writing the host snapshot.

Written under ``flock``, read without a lock: a record is copied, then believed only if its CRC is
right. Where no file can be had, private memory of the same layout takes its place: each process
then asks SQL for itself, later but no less right.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

from uwsgi_waffle.snapshot import NO_LINEAGE, Record

from . import layout
from .files import MappedFile, Refused, check_held, locked, open_file
from .slots import SlotTable

__all__ = ["HostSnapshot"]

logger = logging.getLogger(__name__)

#: How often a torn read is tried again before SQL is asked.
READ_ATTEMPTS = 20

T = TypeVar("T")


class _Area(NamedTuple):
    """A checked copy of what an area holds."""

    sequence: int
    lineage: str
    revision: int
    flags: int
    payload: bytes


class HostSnapshot:
    """The latest record that any process of this host has seen.

    :ivar words: the memory as native unsigned 64-bit words, for the compare at each request
    :ivar slots: the processes of this host
    """

    words: memoryview[int]
    slots: SlotTable

    def __init__(self, path: Path, namespace: str = "default") -> None:
        """Map the file at *path*, made or replaced; where that fails, say so and do without."""
        self.path = path
        self._namespace = namespace
        self._file: MappedFile | None = None
        self._identity: tuple[str, int, int, bool] | None = None
        self._said_too_large = False
        self._said_unreadable = False
        self._new_host_id = secrets.randbits(64)
        self._open()

    @property
    def is_shared(self) -> bool:
        """Whether other processes see what is written here."""
        return self._file is not None

    def _open(self) -> None:
        """Map the file, or private memory where there is none to be had."""
        try:
            file = open_file(self.path, self._namespace, self._new_host_id)
        except (Refused, OSError) as error:
            if self._file is not None or not hasattr(self, "words"):
                self._do_without(error)
            # Else there was none before either, and what is in private memory stays.
        else:
            self._use(file.words, file)

    def _do_without(self, error: Exception) -> None:
        """Go on in private memory, and say why."""
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
        """Go on in other memory, and in what was used before leave word of it."""
        before, self._file = self._file, file
        applied = self.slots.applied if hasattr(self, "slots") else None
        self.words = words
        self.slots = SlotTable(words)
        self._new_host_id = words[layout.HOST_ID_WORD]
        if before is not None and not before.is_in_place():
            before.abandon()
        if self._identity is not None:
            role, worker, master, follows = self._identity
            self.register(role, worker, master, follows=follows)
        if applied is not None:
            self.slots.record(*applied)

    def verify(self) -> bool:
        """Map the file anew if it is no longer the one at its path, and return whether it was so.

        Somebody may have deleted, replaced or cut it short.
        """
        if self._file is not None and self._file.is_in_place():
            return False
        was_shared = self.is_shared
        self._open()
        return was_shared or self.is_shared

    def register(
        self, role: str, worker: int = 0, master: int = 0, *, follows: bool = False
    ) -> None:
        """List this process among those of the host.

        :param follows: whether it is told of changes
        """
        self._identity = (role, worker, master, follows)
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

    def position(self) -> tuple[str, int]:
        """Return lineage and revision of the latest record, ``("", 0)`` where there is none."""
        found = self._latest()
        return ("", 0) if found is None else (found.lineage, found.revision)

    def read(self) -> tuple[int, Record] | None:
        """Return the latest record and its sequence number.

        :return: ``None`` where there is none yet, or it is damaged; SQL knows
        """
        found = self._latest()
        if found is None:
            return None
        rows = None if found.flags & layout.ROWS_LEFT_OUT else json.loads(found.payload)
        return found.sequence, Record(found.lineage, found.revision, rows)

    def _latest(self) -> _Area | None:
        """Return the area in use, ``None`` where there is none yet, or it is damaged."""
        found = self._in_use()
        if found is None and self.sequence and self.verify():
            found = self._in_use()  # it was not damaged, but abandoned
        if found is None and self.sequence and not self._said_unreadable:
            self._said_unreadable = True
            logger.warning(
                "waffle: the record in the host snapshot %s is damaged. It is read from SQL, and "
                "written anew.",
                self.path,
            )
        return found

    def _in_use(self) -> _Area | None:
        """Return the area in use in the memory at hand, ``None`` as :meth:`_latest`."""
        for _ in range(READ_ATTEMPTS):
            sequence = self.sequence
            if sequence == 0:
                return None
            area = self._copy_area(sequence)
            if area is not None:
                return area
        return None

    def publish(self, record: Record, *, at_start: bool = False) -> bool:
        """Make *record* the latest, and return whether it is; never goes back within a lineage.

        :param at_start: take the empty record of a database that was emptied as well, where no
            other process of this host is listed
        """
        payload = _encode(record.rows)
        too_large = len(payload) > layout.ROOM_BYTES
        stored = b"" if too_large else payload
        taken = self._exclusively(lambda: self._publish(record, stored, at_start=at_start))
        if taken and too_large and not self._said_too_large:
            self._said_too_large = True
            logger.warning(
                "waffle: the settings take more than the %d bytes of the host snapshot. Each "
                "process reads them from SQL after a change; keep large values elsewhere.",
                layout.ROOM_BYTES,
            )
        return taken

    def _exclusively(self, act: Callable[[], T]) -> T:
        """Do what writes to the file, alone; in private memory where the lock cannot be had.

        It must not log: under gevent that may let others run, who would wait for the lock.
        """
        while self.is_shared:
            self.verify()
            try:
                with locked(self.path) as held:
                    check_held(self.path, held=held)
                    # Whoever replaces the file holds the lock too, so it now stays in place.
                    if self._file is not None and self._file.is_in_place():
                        return act()
            except OSError as error:
                self._do_without(error)
        return act()

    def _publish(self, record: Record, payload: bytes, *, at_start: bool) -> bool:
        found = self._in_use()
        if found is not None and not record.supersedes(found.lineage, found.revision):
            is_emptied = record.lineage == NO_LINEAGE != found.lineage
            if not (is_emptied and at_start and self._is_alone()):
                return False
        # From a random start, so that no file repeats a number that a process has seen in another.
        # Garbage may have been left in it, too: after the largest number comes one that is no 0.
        sequence = ((self.sequence or secrets.randbits(62)) + 1) & layout.WORD_MAX or 2
        self._write_area(sequence, record, payload)
        self.words[layout.SEQUENCE_WORD] = sequence
        self._said_unreadable = False
        return True

    def _is_alone(self) -> bool:
        return all(process.pid == os.getpid() for process in self.slots.living())

    def _copy_area(self, sequence: int) -> _Area | None:
        """Return a copy of an area; ``None`` where a writer is at work in it, or it is damaged."""
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
        lineage = header[layout.AREA_LINEAGE]
        return _Area(
            sequence,
            f"{lineage:016x}" if lineage else "",
            header[layout.AREA_REVISION],
            header[layout.AREA_FLAGS],
            payload,
        )

    def _write_area(self, sequence: int, record: Record, payload: bytes) -> None:
        """Write a record into the area that nobody reads now; without a payload, without rows."""
        header = [0] * layout.AREA_HEADER_WORDS
        header[layout.AREA_SEQUENCE] = sequence
        header[layout.AREA_LINEAGE] = int(record.lineage or "0", 16)
        header[layout.AREA_REVISION] = record.revision
        header[layout.AREA_LENGTH] = len(payload)
        header[layout.AREA_FLAGS] = 0 if payload else layout.ROWS_LEFT_OUT
        header[layout.AREA_CRC] = _crc(header, payload)
        start = layout.area_offset(sequence)
        word = start // layout.WORD_BYTES
        memory = self.words.cast("B")
        memory[start + layout.AREA_HEADER_BYTES :][: len(payload)] = payload
        for position, value in enumerate(header):
            self.words[word + position] = value

    # -- who looks after SQL ------------------------------------------------------------------

    def beat(self) -> None:
        """Say that a listener of this host is alive and has just turned."""
        self.words[layout.HEARTBEAT_WORD] = time.monotonic_ns()

    def heartbeat_age_seconds(self) -> float | None:
        """Return how long ago a listener turned, ``None`` where none has since the boot."""
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

    @contextmanager
    def asking(self, every_seconds: float) -> Iterator[bool]:
        """Give whether this process is to ask SQL now: one at a time, one in *every_seconds*.

        For hosts where no listener lives.
        """
        if not self._is_time_to_ask(every_seconds):
            yield False
            return
        with self.only_reader(wait_seconds=0) as mine:
            if not mine or not self._is_time_to_ask(every_seconds):
                yield False
                return
            self.words[layout.ASKED_WORD] = time.monotonic_ns()
            yield True

    def _is_time_to_ask(self, every_seconds: float) -> bool:
        asked = self.words[layout.ASKED_WORD]
        age = time.monotonic_ns() - asked
        return not asked or not 0 <= age < every_seconds * 1e9

    @contextmanager
    def only_reader(self, *, wait_seconds: float) -> Iterator[bool]:
        """Hold the right to read SQL for this host, and give whether it is held.

        :param wait_seconds: how long to wait for it at most; whoever holds it may be stuck
        """
        mine = True
        with ExitStack() as stack:
            if self.is_shared:
                lock = locked(self.path, ".reader", wait_seconds=wait_seconds)
                # Whoever cannot have the lock cannot know of others, and reads for himself.
                with suppress(OSError):
                    mine = stack.enter_context(lock)
            yield mine


def _encode(rows: Mapping[str, str] | None) -> bytes:
    return b"" if rows is None else json.dumps(dict(rows), separators=(",", ":")).encode()


def _crc(header: list[int], payload: bytes) -> int:
    """Return the CRC of a record and of everything in its header but the CRC."""
    start = zlib.crc32(repr(header[: layout.AREA_CRC]).encode())
    return zlib.crc32(payload, start)
