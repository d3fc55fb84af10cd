"""The program that measures fleets, at a size that fits here: what it counts must hold."""

from __future__ import annotations

import pytest

from tests.bench.fleet import measure as measuring
from tests.support import fresh_database
from uwsgi_waffle.listen import pace

HOSTS, CHANGES = 20, 2


def test_a_small_fleet_is_moved_proved_and_right_after_a_restart_of_redis(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As if it were a large one, which spreads what it asks, and holds no connection."""
    monkeypatch.setattr(measuring, "RESTART_SECONDS", 0.5)
    assert pace.HELD_CONNECTIONS < HOSTS
    with fresh_database("postgresql") as url:
        found = measuring.measure({"WAFFLE_DATABASE_URI": url}, HOSTS, changes=CHANGES)
    assert len(found.moved_ms) == HOSTS * CHANGES
    assert len(found.wait_ms) == CHANGES
    assert found.connections < HOSTS / 2
    assert [len(row) for row in (found.row, found.cpu_row, found.restart_row)] == [
        len(measuring.HEADER),
        len(measuring.CPU_HEADER),
        len(measuring.RESTART_HEADER),
    ]
