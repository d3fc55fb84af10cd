"""The two areas of the host snapshot: one holds the latest record, the other takes the next."""

from __future__ import annotations

import json
import secrets
import zlib
from typing import Annotated, NamedTuple

from pydantic import Field, TypeAdapter, ValidationError

from uwsgi_waffle.values.position import Position
from uwsgi_waffle.values.snapshot import Record

from . import layout
from .processes import position_of

__all__ = ["Area", "Before", "encode_record", "in_use", "leave_in_doubt", "read", "write"]

#: Lineages that a host was at before, the latest first, each with its keys.
Before = tuple[tuple[str, ...], ...]

#: How often a torn read is tried again before SQL is asked.
READ_ATTEMPTS = 20


#: Rows, keys, and what was before: the names of lineages, each with its keys.
Contents = tuple[
    dict[str, str],
    tuple[str, ...],
    tuple[Annotated[tuple[str, ...], Field(min_length=1)], ...],
]
_contents: TypeAdapter[Contents] = TypeAdapter(Contents)


class Area(NamedTuple):
    """A checked copy of what an area holds."""

    sequence: int
    position: Position
    contents: Contents


def in_use(words: memoryview[int]) -> Area | None:
    """Return the latest record; ``None`` where there is none yet, or it is damaged or in doubt."""
    for _ in range(READ_ATTEMPTS):
        sequence = words[layout.SEQUENCE_WORD]
        if sequence == 0 or sequence & layout.IN_DOUBT:
            return None
        area = read(words, sequence)
        if area is not None:
            return area
    return None


def read(words: memoryview[int], sequence: int) -> Area | None:
    """Return a copy of an area; ``None`` where a process is writing to it, or it is damaged."""
    start = layout.AREA_OFFSETS[sequence & 1]
    word = start // layout.WORD_BYTES
    header = words[word : word + layout.AREA_HEADER_WORDS].tolist()
    length = header[layout.AREA_LENGTH]
    if header[layout.AREA_SEQUENCE] != sequence or length > layout.ROOM_BYTES:
        return None
    first = start + layout.AREA_HEADER_BYTES
    payload = bytes(words.cast("B")[first : first + length])
    if _crc(header, payload) != header[layout.AREA_CRC]:
        return None
    position = position_of(
        header[layout.AREA_LINEAGE], header[layout.AREA_REVISION], header[layout.AREA_STAMP]
    )
    try:
        return Area(sequence, position, _contents.validate_json(payload, strict=True))
    except ValidationError:  # another program wrote it, or a release with a bug
        return None


def write(words: memoryview[int], sequence: int, position: Position, payload: bytes) -> None:
    """Write a record into the area that is not in use."""
    header = [0] * layout.AREA_HEADER_WORDS
    header[layout.AREA_SEQUENCE] = sequence
    header[layout.AREA_LINEAGE] = int(position.lineage or "0", 16)
    header[layout.AREA_REVISION] = position.revision
    header[layout.AREA_STAMP] = int(position.stamp or "0", 16)
    header[layout.AREA_LENGTH] = len(payload)
    header[layout.AREA_CRC] = _crc(header, payload)
    start = layout.AREA_OFFSETS[sequence & 1]
    word = start // layout.WORD_BYTES
    words.cast("B")[start + layout.AREA_HEADER_BYTES :][: len(payload)] = payload
    for offset, value in enumerate(header):
        words[word + offset] = value


def leave_in_doubt(words: memoryview[int]) -> None:
    """Have no record count: neither the one in use, nor one that is about to be put in use.

    That needs no lock, whose holder may have been stopped between its last look at the number of
    the record and the moment when it moves that on. Its record is disowned, as it was whole before.
    """
    words[layout.SEQUENCE_WORD] = layout.IN_DOUBT | secrets.randbits(62)
    for start in layout.AREA_OFFSETS:
        words[start // layout.WORD_BYTES + layout.AREA_SEQUENCE] = 0


def _crc(header: list[int], payload: bytes) -> int:
    """Return the CRC of a record and of everything in its header but the CRC."""
    start = zlib.crc32(repr(header[: layout.AREA_CRC]).encode())
    return zlib.crc32(payload, start)


def encode_record(record: Record, before: Before = ()) -> bytes:
    """Return a record as the host snapshot holds it, with the lineage and the keys before it."""
    return json.dumps([dict(record.rows), record.keys, before], separators=(",", ":")).encode()
