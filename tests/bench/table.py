"""Printing figures, and what they are made of."""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Sequence


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value that *share* of all values do not exceed."""
    ordered = sorted(values)
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]


def summary(values_ms: Sequence[float]) -> list[str]:
    """Return median, 99th percentile and maximum as cells, in milliseconds."""
    figures = statistics.median(values_ms), quantile(values_ms, 0.99), max(values_ms)
    return [f"{figure:.2f}" for figure in figures]


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under a header, in columns as wide as what stands in them."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in (header, ["-" * width for width in widths], *rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("| " + " | ".join(cells) + " |")  # noqa: T201  a benchmark's output
    sys.stdout.flush()
