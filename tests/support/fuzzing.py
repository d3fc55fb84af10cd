"""Made-up input: how much of it, and how long each may take."""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from tests.support.soak import times

__all__ = ["fuzzed", "json_values"]

Test = TypeVar("Test", bound=Callable[..., Any])

#: No input takes longer, on a machine however busy: what does hangs.
DEADLINE = timedelta(seconds=10)
#: What Hypothesis makes up of texts and bytes within the hour that a test of a soak may take;
#: `tests.machine.fuzz` gives each reader of bytes a million.
SOAK = 100_000


def fuzzed(count: int, soak: int = SOAK) -> Callable[[Test], Test]:
    """Have a test look at so many inputs, and at more in a soak, each under a deadline."""
    return settings(
        max_examples=times(count, soak),
        deadline=DEADLINE,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


@functools.cache
def json_values() -> st.SearchStrategy[Any]:
    """Give values that JSON has, and those that Python's JSON adds."""
    return st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda inner: (
            st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
        ),
        max_leaves=8,
    )
