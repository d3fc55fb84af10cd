"""Writes the tables of the last `make bench` and `make bench-scale` into the docs, and draws plots.

::

    python -m tests.bench.report

A table stands between ``<!-- bench: its name -->`` and ``<!-- end -->``. One that was not measured
stays as it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib import rcParams
from matplotlib.figure import Figure

from tests.bench.table import RESULTS, table_lines

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ("performance.md", "scaling.md")
TABLE = re.compile(r"(?s)(<!-- bench: (?P<name>[^>]+?) -->\n).*?(<!-- end -->)")
COLOURS = ("#999999", "#555555", "#1f77b4", "#d62728")


@dataclass(frozen=True)
class Result:
    """One table that was measured."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    series: Mapping[str, Sequence[float]]
    load: float

    def numbers(self, column: str, rows: Sequence[Sequence[str]] | None = None) -> list[float]:
        """Return a column of figures, the first of each cell."""
        at = self.header.index(column)
        cells = [row[at].replace(",", "") for row in rows or self.rows]
        return [float(re.sub(r"[^\d.].*", "", cell)) for cell in cells]


def main() -> None:
    """Fill in the pages, and draw what there is."""
    results = {
        path.stem: Result(**json.loads(path.read_text())) for path in sorted(RESULTS.glob("*.json"))
    }
    for page in PAGES:
        path = DOCS / page
        path.write_text(TABLE.sub(lambda found: _filled(found, results), path.read_text()))
    rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "waffle"})  # small, and repeatable
    for name, draw in PLOTS.items():
        figure = Figure(figsize=(8, 3.6), layout="constrained")
        if draw(figure, results):
            figure.savefig(DOCS / "images" / f"{name}.svg", metadata={"Date": None})


def _filled(found: re.Match[str], results: Mapping[str, Result]) -> str:
    result = results.get(found["name"])
    if result is None:
        return found[0]
    lines = "\n".join(table_lines(result.header, result.rows))
    return f"{found[1]}{lines}\n\nLoad of the machine: {result.load:.0f}.\n{found[3]}"


def _propagation(figure: Figure, results: Mapping[str, Result]) -> bool:
    """Draw which share of changes had reached the last worker after how long."""
    kinds = [name for name in ("sqlite", "postgresql") if f"propagation {name}" in results]
    axes: Any = figure.subplots(1, len(kinds), sharey=True, squeeze=False) if kinds else ()
    for kind, panel in zip(kinds, axes[0] if kinds else (), strict=True):
        series = results[f"propagation {kind}"].series
        for (label, late), colour in zip(series.items(), COLOURS, strict=True):
            shares = [(number + 1) / len(late) * 100 for number in range(len(late))]
            panel.plot(sorted(late), shares, label=label, color=colour)
        panel.set(title=kind, xscale="log", xlabel="ms from the commit to the last of 4 workers")
        panel.grid(alpha=0.3, which="both")
    if kinds:
        axes[0][0].set_ylabel("% of changes")
        axes[0][0].legend(fontsize="small")
    return bool(kinds)


def _budget(figure: Figure, results: Mapping[str, Result]) -> bool:
    """Draw when each step is reached: from the first process to the last, at the median."""
    result = results.get("budget sqlite")
    if result is None:
        return False
    figure.set_size_inches(8, 5.6)
    axes: Any = figure.subplots()
    names = [row[0] for row in result.rows]
    first, last = result.numbers("first p50"), result.numbers("last p50")
    colours = [COLOURS[2 if name.startswith("same") else 3] for name in names]
    widths = [max(end - begin, 0.02) for begin, end in zip(first, last, strict=True)]
    axes.barh(names, widths, left=first, color=colours)
    axes.invert_yaxis()
    axes.set_xlabel("ms after the commit, from the first process to the last")
    axes.grid(alpha=0.3, axis="x")
    return True


def _peers(figure: Figure, results: Mapping[str, Result]) -> bool:
    """Draw what a read costs, in reads of the configuration."""
    result = results.get("peers")
    if result is None:
        return False
    measured = [row for row in result.rows if row[1] != "not measured"]
    axes: Any = figure.subplots()
    ratios = result.numbers("ratio", measured)
    colours = [COLOURS[2] if "waffle" in row[0] else COLOURS[0] for row in measured]
    bars = axes.barh([row[0] for row in measured], ratios, color=colours, left=0)
    axes.bar_label(bars, [f"{ratio:g}" for ratio in ratios], padding=3, fontsize="small")
    axes.set(xscale="log", xlabel='a read, in reads of current_app.config["X"]')
    axes.margins(x=0.15)
    axes.invert_yaxis()
    return True


def _looks(figure: Figure, results: Mapping[str, Result]) -> bool:
    """Draw what a look at all hosts takes."""
    result = results.get("looks")
    if result is None:
        return False
    axes: Any = figure.subplots()
    for what, colour in (("wait", COLOURS[2]), ("status", COLOURS[3])):
        rows = [row for row in result.rows if row[1] == what]
        hosts, took = result.numbers("hosts", rows), result.numbers("ms (median)", rows)
        axes.plot(hosts, took, "o-", label=what, color=colour)
    axes.set(xscale="log", yscale="log", xlabel="hosts of 9 processes", ylabel="ms")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    return True


def _fleet(figure: Figure, results: Mapping[str, Result]) -> bool:
    """Draw when hosts have moved, and when that is proved."""
    result = results.get("fleet changes")
    if result is None:
        return False
    axes: Any = figure.subplots()
    hosts = result.numbers("hosts")
    columns = [name for name in result.header if name.endswith(" ms")]
    for column in columns:
        axes.plot(hosts, result.numbers(column), "o-", label=column.removesuffix(" ms"))
    axes.set(xscale="log", yscale="log", xlabel="hosts", ylabel="ms after the commit")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize="small")
    return True


PLOTS: Mapping[str, Callable[[Figure, Mapping[str, Result]], bool]] = {
    "propagation": _propagation,
    "budget": _budget,
    "peers": _peers,
    "looks": _looks,
    "fleet": _fleet,
}


if __name__ == "__main__":
    main()
