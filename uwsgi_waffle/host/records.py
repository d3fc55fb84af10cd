"""Reading and writing the host snapshot.

It is written under ``flock`` and read without a lock: a reader copies a record, then believes it
only if its CRC is right. A writer that cannot have the lock writes no record, but a sequence number
that says so: each process then asks SQL, and the next writer that has the lock ends that. Where the
file cannot be used, private memory of the same layout takes its place, and each process asks SQL.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Callable
from functools import partial
from pathlib import Path

from uwsgi_waffle.values.position import NOWHERE, Position
from uwsgi_waffle.values.snapshot import Record

from . import areas, layout
from .areas import Before, encode_record
from .files import MappedFile, RefusedFile, open_file
from .locks import LOCK_IS_HELD, READER_WAIT_SECONDS, locked
from .marks import HostMarks
from .processes import SlotTable

__all__ = ["HostSnapshot"]

logger = logging.getLogger(__name__)

#: How many lineages a host remembers, as other hosts may still be at one of them.
KEPT_LINEAGES = 4


class HostSnapshot(HostMarks):
    """The latest record that any process of this host has seen.

    :ivar words: the memory as native unsigned 64-bit words, for the compare at each request
    :ivar slots: the processes of this host
    """

    def __init__(
        self,
        path: Path,
        namespace: str = "default",
        path_of_user: Callable[[], Path] | None = None,
        *,
        private_reason: str | None = None,
        database: Path | None = None,
    ) -> None:
        """Map the file at *path*, made or replaced; where that fails, log it and do without.

        :param path_of_user: returns the path for the user that the process runs as by then, where
            that decides it
        :param private_reason: why there must be no file
        :param database: the SQLite file with which the file may be removed
        """
        self.path = path
        self._private_reason = private_reason
        self._path_of_user = path_of_user
        self._user_id = os.geteuid()
        self._namespace = namespace
        self._database = database
        self._file: MappedFile | None = None
        self.slots = SlotTable()
        self._logged: set[str] = set()
        #: Sequence number -> what was decoded of that record.
        self._decoded: tuple[int, str, tuple[str, ...], Before] = (0, "", (), ())
        self._known: tuple[int, Position] = (0, NOWHERE)
        self._new_host_id = secrets.randbits(64)
        #: Why other processes do not see what is written here, ``None`` where they do.
        self.not_shared_reason: str | None = None
        if private_reason is None:
            self._open()
        else:
            self._use_private_memory(private_reason)

    @property
    def is_shared(self) -> bool:
        """Whether other processes see what is written here."""
        return self._file is not None

    def _open(self, *, is_moved: bool = False) -> None:
        """Map the file, or private memory where it cannot be used.

        :param is_moved: the memory at hand is that of another path, and must not be kept
        """
        try:
            file = open_file(self.path, self._namespace, self._new_host_id, self._database)
        except (RefusedFile, OSError) as error:
            if is_moved or self._file is not None or not hasattr(self, "words"):
                logger.warning(
                    "waffle: the host snapshot %s cannot be used (%s). Each process asks SQL for "
                    "itself until it can; changes are seen later than usual.",
                    self.path,
                    error,
                )
                self._use_private_memory(str(error))
            # Else this process has private memory already, and keeps what is in it.
        else:
            self.not_shared_reason = None
            self._use(file.words, file)

    def _use_private_memory(self, reason: str) -> None:
        """Switch to memory that other processes do not see."""
        self.not_shared_reason = reason
        words = memoryview(bytearray(layout.FILE_BYTES)).cast("Q")
        words[layout.HOST_ID_WORD] = self._new_host_id
        self._use(words, None)

    def _use(self, words: memoryview[int], file: MappedFile | None) -> None:
        """Switch to another mapping and mark the old one abandoned."""
        before, self._file, self.words = self._file, file, words
        self._place = self._place if file is None else file.place
        self.slots.move(words, None if file is None else file.lives)
        self._new_host_id = words[layout.HOST_ID_WORD]
        if before is not None and not before.is_in_place():
            before.abandon()
        if self.slots.is_registered:
            self._list()

    def verify(self) -> bool:
        """Map the file anew if it is no longer the one at its path, and return whether it was so.

        It may have been deleted, replaced or cut short.
        """
        self.follow_user()
        if self._file is not None and self._file.is_in_place():
            if self.slots.is_registered and not self.slots.is_listed():
                self._list()  # the file of the life locks was deleted
            return False
        if self._private_reason is not None:
            return False
        was_shared = self.is_shared
        self._open()
        return was_shared or self.is_shared

    def follow_user(self) -> None:
        """Move to the file of the user that this process has become, with the record it has.

        A server that loads the application as root and then gives up its privileges would else
        keep root's file, which it may not lock or open any more.
        """
        if self._user_id == os.geteuid():
            return
        self._user_id = os.geteuid()
        if self._path_of_user is None or self._path_of_user() == self.path:
            return
        found = self.read()
        self.path, self._file = self._path_of_user(), None
        self._open(is_moved=True)
        if found is not None:
            self.publish(found[1])

    def register(
        self, role: str, worker: int = 0, master: int = 0, *, follows: bool = False
    ) -> None:
        """List this process among those of the host.

        :param follows: whether it is woken for changes
        """
        self.slots.introduce(role, worker, master, follows=follows)
        self._list()

    def _list(self) -> None:
        """Take a slot for this process; no lock is needed, which a stopped process may hold."""
        try:
            reason = "" if self.slots.claim() else f"there are {layout.SLOT_COUNT} already"
        except OSError as error:
            reason = str(error)
        if reason:
            self._log_once(
                "unlisted",
                "waffle: this process (pid %d) does not show in status, as %s cannot list it (%s).",
                os.getpid(),
                self.path,
                reason,
            )

    # -- records ------------------------------------------------------------------------------

    @property
    def position(self) -> Position:
        """The position of the latest record, decoded once for each record."""
        if self.words[layout.SEQUENCE_WORD] != self._known[0]:
            found = self._latest()
            if found is None:
                return NOWHERE
            self._known = found.sequence, found.position
        return self._known[1]

    def read(self) -> tuple[int, Record] | None:
        """Return the latest record and its sequence number.

        :return: ``None`` where there is none yet, or it is damaged; SQL has it
        """
        found = self._latest()
        if found is None:
            return None
        return found.sequence, Record(found.position, *found.contents)

    def _latest(self) -> areas.Area | None:
        """Return the area in use, ``None`` where there is none yet, or it is damaged."""
        sequence = self.sequence
        found = areas.in_use(self.words)
        if found is None and sequence and self.verify():
            found = areas.in_use(self.words)  # it was not damaged, but abandoned
        is_damaged = found is None and sequence and not sequence & layout.IN_DOUBT
        if is_damaged and self.sequence == sequence:
            areas.leave_in_doubt(self.words)  # others may know of its position, and not look again
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

    def publish(
        self, record: Record, *, at_start: bool = False, since: int | None = None
    ) -> int | None:
        """Make *record* the latest; never goes back within a lineage.

        Where another process holds the lock for too long, or it cannot be opened, all processes of
        this host are made to ask SQL instead.

        :param at_start: accept the empty record of a database that was emptied as well, where no
            other process of this host is listed
        :param since: the sequence number before SQL was read; left out for a record that this
            process has committed, which other processes may have missed there
        :return: its sequence number, ``None`` where a later record stays the latest, this one is
            too large, or all processes are made to ask SQL
        """
        lineage, keys, before = self._secrets()
        if keys and record.position.lineage != lineage:
            before = ((lineage, *keys), *before)[:KEPT_LINEAGES]
        payload = encode_record(record, before)
        if len(payload) > layout.ROOM_BYTES:
            self._log_once(
                "too large",
                "waffle: the settings in SQL take %d bytes, and the host snapshot has room for "
                "%d. The last known settings are served; reset or shorten a large one.",
                len(payload),
                layout.ROOM_BYTES,
            )
            return None
        write = partial(self._publish, record, before, payload, since, at_start=at_start)
        return self._exclusively(write, record, since)

    def _doubt(self, record: Record, since: int | None) -> None:
        """Make each process ask SQL, unless the others know all that this one does."""
        if since is not None:
            if self.sequence & layout.IN_DOUBT:
                return
            found = areas.in_use(self.words)
            if found is not None and not record.position.supersedes(found.position):
                return
        areas.leave_in_doubt(self.words)

    def _exclusively(
        self, write: Callable[[], int | None], record: Record, since: int | None
    ) -> int | None:
        """Write a record to the file, alone; leave that in doubt where the lock cannot be had.

        *write* must not log: under gevent that may switch to a greenlet that waits for the lock.
        """
        wait_seconds = None if since is None else READER_WAIT_SECONDS
        while self._file is not None:
            try:
                with locked(self.path, wait_seconds=wait_seconds) as is_held:
                    if not is_held:
                        raise TimeoutError(LOCK_IS_HELD)
                    # A process that replaces the file holds the lock too, so it now stays in place.
                    if self._file.is_in_place():
                        return write()
            except OSError as error:
                if self._file.is_in_place():
                    self._log_once(
                        "unlocked",
                        "waffle: the host snapshot %s cannot be written (%s). Each process of "
                        "this host asks SQL for each change until it can.",
                        self.path,
                        error,
                    )
                    self._doubt(record, since)
                    return None
            self._open()
        return write()

    def _publish(
        self, record: Record, before: Before, payload: bytes, since: int | None, *, at_start: bool
    ) -> int | None:
        present: Position | None
        # Both parts of what is known at once, as another thread may learn of a later record.
        last, (seen, present) = self.words[layout.SEQUENCE_WORD], self._known
        if not last or last != seen:
            found = areas.in_use(self.words)
            present = None if found is None else found.position
        if present is None and last != (since or 0):
            self._doubt(record, since)  # what is in doubt, damaged or gone may be later than this
            return None
        if present is not None and not record.position.supersedes(present):
            is_emptied = not record.position.exists and present.exists
            if not (is_emptied and at_start) or self.slots.others():
                return None
        # From a random start, so that no file repeats a number that a process has seen in another.
        # Garbage may have been left in it, too: after the largest number comes one that is not 0.
        sequence = ((last or secrets.randbits(62)) + 1) & (layout.IN_DOUBT - 1) or 2
        areas.write(self.words, sequence, record.position, payload)
        if self.words[layout.SEQUENCE_WORD] != last:
            return None  # this process was stopped, and another has sent all to SQL meanwhile
        self.words[layout.SEQUENCE_WORD] = sequence
        self._known = sequence, record.position
        self._decoded = sequence, record.position.lineage, record.keys, before
        self._logged.clear()
        return sequence

    # -- keys ---------------------------------------------------------------------------------

    @property
    def keys(self) -> tuple[str, ...]:
        """What signs the messages between hosts; empty before the first record."""
        return self._secrets()[1]

    @property
    def lineages_before(self) -> tuple[str, ...]:
        """The lineages that this host was at before the present one, the latest first."""
        return tuple(lineage for lineage, *_ in self._secrets()[2])

    def keys_of(self, lineage: str) -> tuple[str, ...]:
        """Return what signs the messages of a lineage that this host is at, or was at before."""
        present, keys, before = self._secrets()
        return {**{name: tuple(old) for name, *old in before}, present: keys}.get(lineage, ())

    def _secrets(self) -> tuple[str, tuple[str, ...], Before]:
        """Return lineage, keys and what was before, decoded once for each record."""
        if self._decoded[0] != self.words[layout.SEQUENCE_WORD]:
            found = self.read()
            if found is None:
                return self._decoded[1:] if self.sequence & layout.IN_DOUBT else ("", (), ())
            record = found[1]
            self._decoded = found[0], record.position.lineage, record.keys, record.before
        return self._decoded[1:]
