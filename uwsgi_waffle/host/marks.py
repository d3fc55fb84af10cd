"""Single words of the host snapshot: which record is the latest, when what was done, and counts."""

from __future__ import annotations

import time

from . import layout

__all__ = ["HostMarks"]


class HostMarks:
    """The number of the latest record, and what the listeners of this host did when.

    :ivar words: the memory as native unsigned 64-bit words
    """

    words: memoryview[int]

    @property
    def host_id(self) -> str:
        """16 hexadecimal digits that identify this host, which is this file."""
        return f"{self.words[layout.HOST_ID_WORD]:016x}"

    @property
    def sequence(self) -> int:
        """Number of the latest record; it moves on with each."""
        return self.words[layout.SEQUENCE_WORD]

    def beat(self) -> None:
        """Record that a listener of this host has just compared it with SQL."""
        self.words[layout.HEARTBEAT_WORD] = time.monotonic_ns()

    def heartbeat_age_seconds(self) -> float | None:
        """Return how long ago a listener did, ``None`` where none has since the boot."""
        return self._age_seconds(layout.HEARTBEAT_WORD)

    def _age_seconds(self, word: int) -> float | None:
        """Return how long ago a word was dated, ``None`` where it was not since the boot."""
        at = self.words[word]
        age = time.monotonic_ns() - at
        # A file on a disk outlives the boot whose clock it holds.
        return age / 1e9 if at and age >= 0 else None

    def note_deserted(self) -> None:
        """Note that the last process ends: the next one asks SQL, without trust in old dates."""
        self.words[layout.HEARTBEAT_WORD] = self.words[layout.ASKED_WORD] = 0
        self.note_unregistered()

    def note_asked(self) -> None:
        """Note that a process has just compared this host with SQL because no listener does."""
        self.words[layout.ASKED_WORD] = time.monotonic_ns()

    def note_sql(self, *, answers: bool) -> None:
        """Note that SQL has just answered a process which compares this host, or has not."""
        word = layout.SQL_ANSWERED_WORD if answers else layout.SQL_FAILED_WORD
        self.words[word] = time.monotonic_ns()

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
        self.words[layout.REGISTERED_WORD] = time.monotonic_ns()

    def was_registered_within(self, seconds: float) -> bool:
        """Return whether this host was registered within so many seconds."""
        registered = self.words[layout.REGISTERED_WORD]
        return registered != 0 and 0 <= time.monotonic_ns() - registered < seconds * 1e9

    def note_unregistered(self) -> None:
        """Note that this host is not registered."""
        self.words[layout.REGISTERED_WORD] = 0

    @property
    def is_registered(self) -> bool:
        """Whether a listener has registered this host."""
        return self.words[layout.REGISTERED_WORD] != 0

    def _claim(self, word: int, every_seconds: float) -> bool:
        """Return whether what a word dates is due, and date it now where it is."""
        now, at = time.monotonic_ns(), self.words[word]
        if at and 0 <= now - at < every_seconds * 1e9:
            return False
        self.words[word] = now
        return True

    def note_woken(self, sequence: int, instance: int) -> None:
        """Note that the writer of a record has woken the workers of an instance for it.

        :param instance: a random number of 64 bits; those of its processes in another container
            may be the same
        """
        self.words[layout.WOKEN_WORD] = sequence ^ instance

    def were_woken(self, sequence: int, instance: int) -> bool:
        """Return whether the writer of a record has woken the workers of an instance for it."""
        return self.words[layout.WOKEN_WORD] == sequence ^ instance

    def count_ignored(self, count: int) -> None:
        """Count messages that were malformed or forged."""
        self.words[layout.IGNORED_WORD] = (self.ignored_count + count) & layout.WORD_MAX

    @property
    def ignored_count(self) -> int:
        """How many messages were malformed or forged since the file was made."""
        return self.words[layout.IGNORED_WORD]
