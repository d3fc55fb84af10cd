"""Positions: their order, and the position of the next commit."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uwsgi_waffle.values.position import NOWHERE, Position, new_stamp

MINE, OTHER = "a" * 16, "b" * 16
ONE, TWO = "1" * 16, "2" * 16
HERE = Position(MINE, 5, ONE)


@pytest.mark.parametrize(
    ("one", "other", "includes", "supersedes", "is_behind"),
    [
        (HERE, HERE, True, False, False),
        (Position(MINE, 6, ONE), HERE, True, True, False),
        (Position(MINE, 4, TWO), HERE, False, False, True),
        (Position(MINE, 5, TWO), HERE, False, True, False),  # SQL's state of that revision wins
        (Position(MINE, 5, ""), HERE, False, True, False),
        (Position(OTHER, 1, ONE), HERE, False, True, False),
        (Position(OTHER, 9, ONE), HERE, False, True, False),
        (NOWHERE, HERE, False, False, False),
        (Position(MINE), NOWHERE, True, True, False),
        (HERE, NOWHERE, True, True, False),
        (NOWHERE, NOWHERE, True, False, False),
    ],
)
def test_the_order_of_positions(
    *, one: Position, other: Position, includes: bool, supersedes: bool, is_behind: bool
) -> None:
    found = one.includes(other), one.supersedes(other), one.is_behind(other)
    assert found == (includes, supersedes, is_behind)


positions = st.just(NOWHERE) | st.builds(
    Position, st.sampled_from([MINE, OTHER]), st.integers(0, 3), st.sampled_from(["", ONE, TWO])
)


@given(one=positions, other=positions)
def test_of_two_states_of_a_database_one_is_later_or_sql_decides(
    one: Position, other: Position
) -> None:
    if one == other:
        assert one.includes(other)
        assert not one.supersedes(other)
    elif one.lineage == other.lineage and one.revision == other.revision:
        assert one.supersedes(other)
        assert other.supersedes(one)
        assert not one.includes(other)
        assert not one.is_behind(other)
    elif one.lineage == other.lineage:
        assert one.supersedes(other) == other.is_behind(one) == one.includes(other)
        assert one.supersedes(other) != other.supersedes(one)
    else:
        assert one.supersedes(other) == one.exists
        assert one.includes(other) == (not other.exists)
        assert not one.is_behind(other)


@pytest.mark.parametrize(
    ("beyond", "revision"),
    [
        (None, 6),
        (NOWHERE, 6),
        (Position(MINE, 3, TWO), 6),
        (Position(MINE, 9, TWO), 10),
        (Position(OTHER, 9, TWO), 6),
    ],
)
def test_the_next_position_exceeds_what_a_host_has_seen_of_the_database(
    beyond: Position | None, revision: int
) -> None:
    following = HERE.next(beyond)
    assert (following.lineage, following.revision) == (MINE, revision)
    assert following.supersedes(HERE)
    assert following.stamp not in ("", ONE, TWO)
    assert HERE.next(beyond) != following, "no two commits share a stamp"


def test_a_stamp_is_16_hexadecimal_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    assert re.fullmatch("[0-9a-f]{16}", new_stamp())
    monkeypatch.setattr("secrets.randbits", lambda _bits: 0)
    assert new_stamp() == f"{1:016x}", "0 stands for no stamp in the host snapshot"
