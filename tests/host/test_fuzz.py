"""Any bytes in the host snapshot: they are no record, or SQL is asked; nothing fails."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.host.states import at, record
from tests.support.fuzzing import fuzzed, json_values
from uwsgi_waffle.bus.fleet import this_host
from uwsgi_waffle.host import areas, layout
from uwsgi_waffle.host.records import HostSnapshot

GOOD = record(7, {"A": "1", "B": '"two"'})

#: Where the parts of the file begin, and how long they are; most of the file is room.
PARTS = (
    (0, 12 * layout.WORD_BYTES),
    (layout.SLOTS_OFFSET, 4 * layout.SLOT_WORDS * layout.WORD_BYTES),
    *((offset, layout.AREA_HEADER_BYTES + 100) for offset in layout.AREA_OFFSETS),
)
places = st.sampled_from(PARTS).flatmap(
    lambda part: st.integers(0, part[1] - 1).map(lambda offset: part[0] + offset)
)
words = st.sampled_from([0, 1, 2**31, 2**63 - 1, 2**63, layout.WORD_MAX]) | st.integers(
    0, layout.WORD_MAX
)
damage = st.lists(
    st.tuples(
        places,
        st.binary(min_size=1, max_size=64) | words.map(lambda word: word.to_bytes(8, "little")),
    ),
    min_size=1,
    max_size=6,
)


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """Give a directory on a disk that is memory, as the file is large."""
    memory = Path("/dev/shm")  # noqa: S108  # the directory made in it is private
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as made:
        yield Path(made)


def look(host: HostSnapshot) -> None:
    """Do everything that a process does with the host snapshot."""
    host.verify()
    found = host.read()
    if found is not None:
        assert all(isinstance(part, str) for row in found[1].rows.items() for part in row)
        assert all(isinstance(key, str) for key in found[1].keys)
    assert all(isinstance(key, str) for key in (*host.keys, *host.lineages_before))
    host.keys_of(at(1).lineage)
    host.count_ignored(1)
    host.heartbeat_age_seconds()
    host.claim_report(1.0)
    host.claim_registration(1.0)
    host.slots.living()
    this_host(host, "here", 15.0)
    host.register("process", follows=True)
    host.slots.record(host.position)
    host.slots.record_listener("live", "error")


@given(damage)
@fuzzed(300)
def test_any_bytes_in_the_file_leave_the_record_whole_or_none(
    directory: Path, changes: list[tuple[int, bytes]]
) -> None:
    """Beside one that is published afterwards: it is always taken, or SQL is asked."""
    path = directory / "snapshot"
    host = HostSnapshot(path)
    host.publish(GOOD)
    descriptor = os.open(path, os.O_RDWR)
    for offset, data in changes:
        os.pwrite(descriptor, data, offset)
    os.close(descriptor)
    found = host.read()
    assert found is None or found[1].rows == GOOD.rows or found[1].position != GOOD.position
    look(host)
    look(HostSnapshot(path))
    host.beat()
    path.unlink()


@given(st.binary(max_size=50) | json_values().map(lambda value: json.dumps(value).encode()))
@example(b"")
@example(b"[[], [], []]")
@example(b'[{"A": 1}, [], []]')
@example(b'[{}, [1], [["a", 1]]]')
@example(b'[{}, "keys", "before"]')
@example(b"[" * 100_000)
@fuzzed(300)
def test_a_record_that_no_release_writes_is_a_damaged_one(directory: Path, payload: bytes) -> None:
    """Though its CRC is right; SQL is asked, and the next record is taken."""
    path = directory / "whole"
    host = HostSnapshot(path)
    sequence = host.publish(GOOD)
    assert sequence is not None
    areas.write(host.words, sequence, at(8), payload)
    look(HostSnapshot(path))
    again = HostSnapshot(path)
    assert again.publish(record(9), since=again.sequence) is not None
    found = again.read()
    assert found is not None
    assert found[1].rows == record(9).rows
    path.unlink()


@given(st.binary(max_size=200), st.integers(0, layout.FILE_BYTES + 4096))
@fuzzed(100)
def test_any_file_in_its_place_is_replaced_or_left_to_its_owner(
    directory: Path, content: bytes, length: int
) -> None:
    path = directory / "other"
    path.write_bytes(content)
    path.chmod(0o600)
    os.truncate(path, length)
    host: Any = HostSnapshot(path)
    look(host)
    assert host.publish(GOOD) is not None
    assert host.read()[1].rows == GOOD.rows
    path.unlink()
