"""Other applications of this user whose processes share a host snapshot here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from . import layout
from .leftovers import database_in
from .lives import LifeLocks
from .processes import SlotTable

__all__ = ["Neighbour", "neighbours"]


@dataclass(frozen=True, slots=True)
class Neighbour:
    """Processes that share another host snapshot.

    :ivar count: how many of them are alive
    :ivar database: their SQLite file; ``None`` where theirs is a server's, or not known
    """

    count: int
    database: Path | None


def neighbours(directory: Path, own: Path) -> Iterator[Neighbour]:
    """Yield what lives in a directory of host snapshots beside that of this application.

    :param own: the host snapshot of this application
    """
    for path in sorted(directory.glob(f"*.{layout.VERSION}.snapshot")):
        if path == own:
            continue
        with suppress(OSError, ValueError):  # it has just been removed, or is no host snapshot
            found = _look(path)
            if found.count:
                yield found


def _look(path: Path) -> Neighbour:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        # Read, not mapped: the memory of a file that is cut short would end this process.
        page = os.pread(descriptor, layout.FILE_BYTES, 0)
    finally:
        os.close(descriptor)
    if len(page) != layout.FILE_BYTES:
        raise ValueError(path)
    words = memoryview(page).cast("Q")
    table = SlotTable()
    table.move(words, LifeLocks(path))
    return Neighbour(len(table.living()), database_in(words))
