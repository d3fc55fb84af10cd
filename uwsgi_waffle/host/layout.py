"""Which word holds what in the host snapshot file.

::

    words 0..14  magic, layout version, room, slots; sequence, heartbeat, SQL asked at; host
                 id, reported at, owner, ignored messages, registered at, woken for; SQL
                 answered at, failed at
    words 15..   place, and length and path of the SQLite file that the settings are from
    page 1..     slots: one for each process, 80 words each
    then         area 0, area 1: 6 words (sequence, lineage, revision, stamp, length, CRC) + room

Every field is a native unsigned 64-bit word, aligned, so one store writes it and one load reads
it. A record goes into the area that is not in use, and only then ``sequence`` moves on, whose
lowest bit names the area in use: a writer killed anywhere before leaves the old record whole.
"""

from __future__ import annotations

import hashlib

MAGIC = int.from_bytes(b"uwaffle\n", "little")
#: Raised with every change of the layout; a file of an older one is replaced.
VERSION = 4

WORD_BYTES = 8
WORD_MAX = 2 ** (8 * WORD_BYTES) - 1
PAGE_BYTES = 4096

# Words of the header.
MAGIC_WORD = 0
VERSION_WORD = 1
ROOM_WORD = 2
SLOTS_WORD = 3
#: Moves on with each record, from a random start; 0 before the first. What every request compares.
SEQUENCE_WORD = 4
#: This bit of it says that no record belongs to it, and that SQL has a later one.
IN_DOUBT = 1 << 63
#: When a listener last compared with SQL: nanoseconds of a clock that each boot begins elsewhere.
HEARTBEAT_WORD = 5
#: When a process last asked SQL because no listener was alive, likewise.
ASKED_WORD = 6
#: A random number made with the file, which identifies this host, together with its place.
HOST_ID_WORD = 7
#: When a listener last reported this host to Redis, on the clock of the heartbeat.
REPORTED_WORD = 8
#: Identifies the namespace, see :func:`owner_number`.
OWNER_WORD = 9
#: How many messages that this host received were malformed or forged.
IGNORED_WORD = 10
#: When a listener last registered this host in SQL, on the clock of the heartbeat; 0 if it is not.
REGISTERED_WORD = 11
#: Which instance's workers its writer has woken for which record.
WOKEN_WORD = 12
#: When SQL last answered a process of this host that compares it, on the clock of the heartbeat.
SQL_ANSWERED_WORD = 13
#: When it last did not, likewise.
SQL_FAILED_WORD = 14
#: Where the path that follows is valid, see :mod:`uwsgi_waffle.host.leftovers`.
PLACE_WORD = 15
#: Bytes of the path of the SQLite file that the settings are from; 0 where a sweep must not ask.
DATABASE_LENGTH_WORD = 16
DATABASE_WORD = 17
DATABASE_BYTES = PAGE_BYTES - DATABASE_WORD * WORD_BYTES

SLOT_WORDS = 80
SLOT_COUNT = 1024
SLOTS_OFFSET = PAGE_BYTES
SLOTS_BYTES = SLOT_COUNT * SLOT_WORDS * WORD_BYTES

# Words of an area's header.
AREA_SEQUENCE = 0
AREA_LINEAGE = 1
AREA_REVISION = 2
AREA_STAMP = 3
AREA_LENGTH = 4
AREA_CRC = 5
AREA_HEADER_WORDS = 6
AREA_HEADER_BYTES = AREA_HEADER_WORDS * WORD_BYTES

#: Largest JSON text of all rows of a record; the whole file takes a little over 1.6 MiB.
ROOM_BYTES = 512 * 1024
AREA_BYTES = AREA_HEADER_BYTES + ROOM_BYTES
AREAS_OFFSET = SLOTS_OFFSET + SLOTS_BYTES
#: Offsets in bytes of the areas; the lowest bit of a sequence number names the one it uses.
AREA_OFFSETS = (AREAS_OFFSET, AREAS_OFFSET + AREA_BYTES)
FILE_BYTES = -(-(AREAS_OFFSET + 2 * AREA_BYTES) // PAGE_BYTES) * PAGE_BYTES


def owner_number(namespace: str) -> int:
    """Return the number that identifies a namespace in the file."""
    return int.from_bytes(hashlib.sha256(namespace.encode()).digest()[:WORD_BYTES], "big")
