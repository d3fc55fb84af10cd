"""Printing figures, and what they are made of."""

from __future__ import annotations

import json
import math
import os
import statistics
import sys
import timeit
from collections.abc import Callable, Iterator, Mapping, Sequence
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


def by_turns(
    what: Mapping[str, Callable[[], object]], rounds: int, number: int
) -> dict[str, list[float]]:
    """Return seconds per call, measured by turns, so that noise meets all alike."""
    found: dict[str, list[float]] = {name: [] for name in what}
    for turn in range(rounds):
        # Forwards and backwards, so that none always runs after the same one.
        for name in list(what)[:: 1 if turn % 2 else -1]:
            found[name].append(timeit.timeit(what[name], number=number) / number)
    return found


def compared(found: Mapping[str, Sequence[float]], units: float) -> Iterator[list[str]]:
    """Return a row for each: its median, the median of its ratios to the first, their quartiles."""
    first = next(iter(found.values()))
    for name, seconds in found.items():
        ratios_to_first = [mine / other for mine, other in zip(seconds, first, strict=True)]
        low, middle, high = statistics.quantiles(ratios_to_first, n=4)
        took = f"{statistics.median(seconds) * units:.0f}"
        yield [name, took, f"{middle:.2f}", f"{low:.2f} to {high:.2f}"]


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
