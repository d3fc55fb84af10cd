"""The record in the host snapshot under any sequence of writes, damage and losses."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.host.states import LINEAGE, OTHER, held_by, used_area
from tests.support.soak import times
from uwsgi_waffle.host import layout
from uwsgi_waffle.host.records import HostSnapshot
from uwsgi_waffle.values.position import Position
from uwsgi_waffle.values.snapshot import Record

hexadecimals = st.integers(1, 2**64 - 1).map(lambda number: f"{number:016x}")
records = st.builds(
    Record,
    st.builds(
        Position,
        st.sampled_from([LINEAGE, OTHER]),
        st.integers(1, 2**63),
        hexadecimals | st.just(""),
    ),
    st.dictionaries(st.from_regex(r"[A-Z]{1,4}", fullmatch=True), st.text(max_size=30)),
    st.lists(hexadecimals, max_size=2).map(tuple),
)


class Model(RuleBasedStateMachine):
    """Any sequence of publishing, damage and opening again, beside what the file should hold."""

    @initialize()
    def begin(self) -> None:
        """Start with an empty file."""
        self.directory = tempfile.TemporaryDirectory()
        self.path = Path(self.directory.name) / "snapshot"
        self.host = HostSnapshot(self.path)
        self.expected: Record | None = None

    @rule(published=records)
    def publish(self, published: Record) -> None:
        """Publish a record of SQL, which is taken if it supersedes the present one."""
        present = self.expected
        is_newer = present is None or published.position.supersedes(present.position)
        sequence = self.host.publish(published, since=self.host.sequence)
        assert (sequence is not None) == is_newer
        if is_newer:
            self.expected = published

    @rule(where=st.integers(0, layout.AREA_BYTES - 1), bits=st.integers(1, 255))
    def damage_the_area_not_in_use(self, where: int, bits: int) -> None:
        """Leave what a killed writer may leave."""
        self.host.words.cast("B")[used_area(self.host, 1) + where] ^= bits

    @precondition(lambda self: self.expected is not None)
    @rule(where=st.integers(0, layout.AREA_HEADER_BYTES - 1), bits=st.integers(1, 255))
    def damage_the_record(self, where: int, bits: int) -> None:
        """Damage the area in use: its record is not believed any more."""
        self.host.words.cast("B")[used_area(self.host) + where] ^= bits
        self.expected = None

    @precondition(lambda self: self.expected is not None)
    @rule(number=st.integers(0, layout.WORD_MAX))
    def damage_the_number(self, number: int) -> None:
        """Damage the number of the record in use: no other record is taken for it."""
        if self.host.sequence != number:
            self.host.words[layout.SEQUENCE_WORD] = number
            self.expected = None

    @rule(length=st.integers(0, layout.FILE_BYTES - 1))
    def cut_short(self, length: int) -> None:
        """Lose the end of the file, and what was in it."""
        os.truncate(self.path, length)
        assert self.host.verify()
        found = held_by(self.host)
        assert found in (None, self.expected)
        self.expected = found

    @rule()
    def delete(self) -> None:
        """Lose the file."""
        self.path.unlink()
        assert self.host.verify()
        self.expected = None

    @rule()
    def open_again(self) -> None:
        """Continue as another process would."""
        self.host = HostSnapshot(self.path)

    @invariant()
    def reads_what_is_expected(self) -> None:
        """The record is the expected one, or there is none."""
        if hasattr(self, "host"):
            assert held_by(self.host) == self.expected

    def teardown(self) -> None:
        """Remove the file."""
        if hasattr(self, "directory"):
            self.directory.cleanup()


Model.TestCase.settings = settings(
    max_examples=times(60, 500), stateful_step_count=25, deadline=None
)
test_the_file_agrees_with_a_model = Model.TestCase
