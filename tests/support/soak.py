"""How often a test repeats itself, or how long it lasts: in every run, and in a soak."""

from __future__ import annotations

import os

__all__ = ["is_soak", "times"]


def is_soak() -> bool:
    """Return whether this run is a soak: all repetitions, full waits, every database."""
    return os.environ.get("TEST_SOAK") == "1"


def times(normal: int, soak: int) -> int:
    """Return how often a test repeats itself."""
    return soak if is_soak() else normal
