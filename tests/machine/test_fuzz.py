"""Some hundred damaged inputs for each reader of bytes; `make fuzz` gives a million."""

from __future__ import annotations

import random
from contextlib import nullcontext

import pytest

from tests.machine import fuzz
from tests.support.soak import times


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("target", fuzz.TARGETS)
def test_no_damaged_input_does_what_must_not_be(target: str) -> None:
    result = fuzz.fuzz(target, times(300, 1_000_000), seed=2)
    assert not result.defects, "\n".join(result.defects[: fuzz.MOST_SHOWN])


def test_an_input_that_fails_is_a_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    def check(_chosen: random.Random) -> None:
        raise RecursionError

    monkeypatch.setattr(fuzz, "TARGETS", {"broken": lambda: nullcontext(check)})
    assert len(fuzz.fuzz("broken", 3, seed=1).defects) == 3
