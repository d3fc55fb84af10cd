"""Printing figures, and what they are made of."""

from __future__ import annotations

import json
import math
import os
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

#: Where the results of the last run are; nothing of it is under version control.
RESULTS = Path(__file__).parents[2] / "build" / "bench"


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


def print_table(
    name: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    series: Mapping[str, Sequence[float]] | None = None,
) -> None:
    """Print rows under a header, and keep them for `tests.bench.report`.

    :param name: of the table, such as ``updates sqlite``
    :param series: what the rows are made of, for a plot
    """
    print(f"\n{name}")  # noqa: T201  a benchmark's output
    for line in table_lines(header, rows):
        print(line)  # noqa: T201
    sys.stdout.flush()
    RESULTS.mkdir(parents=True, exist_ok=True)
    kept = {"header": header, "rows": rows, "series": series or {}, "load": os.getloadavg()[1]}
    (RESULTS / f"{name}.json").write_text(json.dumps(kept))


def table_lines(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table, in columns as wide as what stands in them."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in (header, ["-" * width for width in widths], *rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "| " + " | ".join(cells) + " |"
