"""Positions and records for tests of the host snapshot, and what it holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from uwsgi_waffle.host import layout
from uwsgi_waffle.host.records import HostSnapshot
from uwsgi_waffle.values.position import Position
from uwsgi_waffle.values.snapshot import Record

LINEAGE = "00000000000000aa"
OTHER = "00000000000000bb"


def at(revision: int, lineage: str = LINEAGE, stamp: int | None = None) -> Position:
    """Return a position, stamped with its revision unless a stamp is given."""
    return Position(lineage, revision, f"{revision if stamp is None else stamp:016x}")


def record(
    revision: int,
    rows: Mapping[str, str] | None = None,
    *,
    lineage: str = LINEAGE,
    stamp: int | None = None,
) -> Record:
    """Return a record; one row holds its revision if no rows are given."""
    position = at(revision, lineage, stamp)
    return Record(position, {"A": str(revision)} if rows is None else rows, ("key",))


def held_by(host: HostSnapshot) -> Record | None:
    """Return the record of a host, without what it adds about the lineage before."""
    found = host.read()
    return None if found is None else replace(found[1], before=())


def used_area(host: HostSnapshot, offset: int = 0) -> int:
    """Return where the area in use, or with an offset of 1 the other one, begins."""
    return layout.AREA_OFFSETS[(host.sequence + offset) & 1]


def damage(host: HostSnapshot) -> None:
    """Change a byte of the record in the host snapshot."""
    host.words.cast("B")[used_area(host) + layout.AREA_HEADER_BYTES] ^= 0xFF
