"""Single words of the host snapshot: which record is the latest, when what was done, and counts."""

from __future__ import annotations

import hashlib
import time
from contextlib import suppress
from pathlib import Path

from . import layout

__all__ = ["HostMarks", "number_of_place"]


def number_of_place(device: int = 0) -> int:
    """Return a number for a file system of this machine, until it boots again."""
    place = str(device).encode()
    with suppress(OSError):
        place += Path("/proc/sys/kernel/random/boot_id").read_bytes()
    return int.from_bytes(hashlib.sha256(place).digest()[: layout.WORD_BYTES], "big")


class HostMarks:
    """The number of the latest record, and what the listeners of this host did when.

    A file on a disk outlives a boot, and is copied with a disk or an image of a container. So what
    identifies this host, and dates what it did, is not in the file alone.

    :ivar words: the memory as native unsigned 64-bit words
    """

    words: memoryview[int]
    #: Of the file system that the file is on.
    _place = number_of_place()

    @property
    def host_id(self) -> str:
        """16 hexadecimal digits that identify this host, which is this file at its place."""
        return f"{self.words[layout.HOST_ID_WORD] ^ self._place:016x}"

    @property
    def sequence(self) -> int:
        """Number of the latest record; it moves on with each."""
        return self.words[layout.SEQUENCE_WORD]

    def beat(self) -> None:
        """Record that a listener of this host has just compared it with SQL."""
        self._date(layout.HEARTBEAT_WORD)

    def heartbeat_age_seconds(self) -> float | None:
        """Return how long ago a listener did, ``None`` where none has since the boot."""
        return self._age_seconds(layout.HEARTBEAT_WORD)

    def note_deserted(self) -> None:
        """Note that the last process ends: the next one asks SQL, without trust in old dates."""
        self.words[layout.HEARTBEAT_WORD] = self.words[layout.ASKED_WORD] = 0
        self.note_unregistered()

    def note_asked(self) -> None:
        """Note that a process has just compared this host with SQL because no listener does."""
        self._date(layout.ASKED_WORD)

    def was_asked_within(self, seconds: float) -> bool:
        """Return whether a process has done so within so many seconds."""
        return self._is_within(layout.ASKED_WORD, seconds)

    def note_sql(self, *, answers: bool) -> None:
        """Note that SQL has just answered a process which compares this host, or has not."""
        word = layout.SQL_ANSWERED_WORD if answers else layout.SQL_FAILED_WORD
        self._date(word)

    def sql_answer_age_seconds(self) -> float | None:
        """Return how long ago SQL last answered, ``None`` where it has not since the boot."""
        return self._age_seconds(layout.SQL_ANSWERED_WORD)

    def sql_failure_age_seconds(self) -> float | None:
        """Return how long ago SQL last did not answer, ``None`` where it always has."""
        return self._age_seconds(layout.SQL_FAILED_WORD)

    @property
    def sql_answers(self) -> bool | None:
        """Whether SQL has answered when it was last asked, ``None`` where it was not."""
        answered, failed = self.sql_answer_age_seconds(), self.sql_failure_age_seconds()
        if answered is None or failed is None:
            return None if answered is failed else failed is None
        return answered < failed

    def claim_report(self, every_seconds: float) -> bool:
        """Return whether it is time to report this host, which then counts as done."""
        return self._claim(layout.REPORTED_WORD, every_seconds)

    def claim_registration(self, every_seconds: float) -> bool:
        """Return whether it is time to register this host in SQL, which then counts as done."""
        return self._claim(layout.REGISTERED_WORD, every_seconds)

    def note_registered(self) -> None:
        """Note that this host has just been registered in SQL."""
        self._date(layout.REGISTERED_WORD)

    def was_registered_within(self, seconds: float) -> bool:
        """Return whether this host was registered within so many seconds."""
        return self._is_within(layout.REGISTERED_WORD, seconds)

    def note_unregistered(self) -> None:
        """Note that this host is not registered."""
        self.words[layout.REGISTERED_WORD] = 0

    @property
    def is_registered(self) -> bool:
        """Whether a listener has registered this host."""
        return self._age_seconds(layout.REGISTERED_WORD) is not None

    def note_woken(self, sequence: int, instance: int) -> None:
        """Note that the writer of a record has woken the workers of an instance for it.

        :param instance: the random number of the instance; pids of two containers may be the same
        """
        self.words[layout.WOKEN_WORD] = sequence ^ instance

    def were_woken(self, sequence: int, instance: int) -> bool:
        """Return whether the writer of a record has woken the workers of an instance for it."""
        return self.words[layout.WOKEN_WORD] == sequence ^ instance

    def _claim(self, word: int, every_seconds: float) -> bool:
        """Return whether what a word dates is due, and date it now where it is."""
        if self._is_within(word, every_seconds):
            return False
        self._date(word)
        return True

    def _date(self, word: int) -> None:
        self.words[word] = (self._place + time.monotonic_ns()) & layout.WORD_MAX

    def _is_within(self, word: int, seconds: float) -> bool:
        age = self._age_seconds(word)
        return age is not None and age < seconds

    def _age_seconds(self, word: int) -> float | None:
        """Return how long ago a word was dated, ``None`` where it was not since the boot."""
        date, now = self.words[word], time.monotonic_ns()
        age = (self._place + now - date) & layout.WORD_MAX
        return age / 1e9 if date and age <= now else None

    def count_ignored(self, count: int) -> None:
        """Count messages that were malformed or forged."""
        self.words[layout.IGNORED_WORD] = (self.ignored_count + count) & layout.WORD_MAX

    @property
    def ignored_count(self) -> int:
        """How many messages were malformed or forged since the file was made."""
        return self.words[layout.IGNORED_WORD]
