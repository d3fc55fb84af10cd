"""What the callbacks of `tests.apps.whole_numbers` write down."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Entry", "Journal"]


@dataclass(frozen=True)
class Entry:
    """A callback: in which process, with which values, and when, in monotonic nanoseconds."""

    pid: int
    old: int
    new: int
    at_ns: int


class Journal:
    """A file that processes add entries to; each is read once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read = 0
        self._entries: list[Entry] = []

    def entries(self) -> list[Entry]:
        """Return all entries, in order."""
        if self.path.exists():
            with self.path.open("rb") as file:
                file.seek(self._read)
                for line in file:
                    if not line.endswith(b"\n"):
                        break  # it crosses a page, of which the second is being written
                    self._read += len(line)
                    self._entries.append(Entry(**json.loads(line)))
        return self._entries

    def called_back(self, value: int) -> dict[int, int]:
        """Return pid -> when it called back with *value*."""
        return {entry.pid: entry.at_ns for entry in self.entries() if entry.new == value}

    def pids(self, value: int) -> set[int]:
        """Return the processes that called back with *value*."""
        return set(self.called_back(value))
