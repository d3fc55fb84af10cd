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
    return [f"{figure:.2f}" for figure in _figures(values_ms)]


def _figures(values: Sequence[float]) -> tuple[float, float, float]:
    return statistics.median(values), quantile(values, 0.99), max(values)


def ratios(values: Sequence[float], yardstick: Sequence[float]) -> list[str]:
    """Return by how much median, 99th percentile and maximum exceed those of a yardstick."""
    pairs = zip(_figures(values), _figures(yardstick), strict=True)
    return [f"x {ours / theirs:.2f}" for ours, theirs in pairs]


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under a header, in columns as wide as what stands in them."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in (header, ["-" * width for width in widths], *rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("| " + " | ".join(cells) + " |")  # noqa: T201  a benchmark's output
    sys.stdout.flush()
