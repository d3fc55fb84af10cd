"""Which state a database, a host or a process is at: lineage, revision, stamp, and their order.

A revision number alone names no state: after a failover, or where a backup was restored, two
states can have the same number. Each commit therefore makes a random stamp.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

__all__ = ["MAX_REVISION", "NOWHERE", "Position", "Revision", "new_stamp"]

#: Largest revision that databases and host snapshots hold.
MAX_REVISION = 2**63 - 1
#: A revision that can be stored, where pydantic validates it.
Revision = Annotated[int, Field(ge=0, le=MAX_REVISION)]


@dataclass(frozen=True, slots=True)
class Position:
    """One state of the settings, which no other state shares.

    :ivar lineage: 16 hexadecimal digits made with the namespace; ``""`` without a namespace
    :ivar revision: counts the commits of a lineage; 0 before the first
    :ivar stamp: 16 hexadecimal digits made by the commit; ``""`` before the first
    """

    lineage: str = ""
    revision: Revision = 0
    stamp: str = ""

    @property
    def exists(self) -> bool:
        """Whether this is a state of some database; false for :data:`NOWHERE`."""
        return bool(self.lineage)

    def includes(self, other: Position) -> bool:
        """Return whether this state holds every change of *other*, as far as positions show."""
        if not other.exists:
            return True
        if self.lineage != other.lineage:
            return False
        return self.revision > other.revision or self == other

    def supersedes(self, other: Position) -> bool:
        """Return whether a host or process at *other* should move here, given that SQL is here.

        Within a lineage revisions order; the same revision with another stamp is another state,
        and SQL decides. Another lineage is another database, so it wins. No lineage is a database
        that was emptied, which is no reason to give up what is served.
        """
        if self.lineage == other.lineage:
            return self.revision > other.revision or (
                self.revision == other.revision and self.stamp != other.stamp
            )
        return self.exists

    def is_behind(self, other: Position) -> bool:
        """Return whether *other* is a later revision of the same lineage."""
        return self.lineage == other.lineage and self.revision < other.revision

    def next(self, beyond: Position | None = None) -> Position:
        """Return the position of the commit that follows this one.

        :param beyond: one that a host has seen, whose revision the new one must exceed
        """
        revision = self.revision
        if beyond is not None and beyond.lineage == self.lineage:
            revision = max(revision, beyond.revision)
        return Position(self.lineage, revision + 1, new_stamp())


#: The position of a database without the namespace, and of a host that has not seen one.
NOWHERE = Position()


def new_stamp() -> str:
    """Return the stamp of a new commit: 64 random bits as 16 hexadecimal digits, not all 0."""
    return f"{secrets.randbits(64) or 1:016x}"
