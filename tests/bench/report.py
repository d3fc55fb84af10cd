"""Writes the tables of the last `make bench` into docs/performance.md, and draws its plots.

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
TABLE = re.compile(r"(?s)(<!-- bench: (?P<name>[^>]+?) -->\n).*?(<!-- end -->)")
COLOURS = ("#999999", "#555555", "#1f77b4", "#d62728", "#9ecae1", "#fc9272")


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
    """Fill in the page, and draw what was measured."""
    results = {
        path.stem: Result(**json.loads(path.read_text())) for path in sorted(RESULTS.glob("*.json"))
    }
    page = DOCS / "performance.md"
    page.write_text(TABLE.sub(lambda found: _filled(found, results), page.read_text()))
    rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "waffle"})  # small, and repeatable
    for plot, (tables, height, draw) in PLOTS.items():
        measured = {name: results[name] for name in tables if name in results}
        if measured:
            figure = Figure(figsize=(8, height), layout="constrained")
            panels: Any = figure.subplots(1, len(measured), sharey=True, squeeze=False)
            for axes, (name, result) in zip(panels[0], measured.items(), strict=True):
                draw(axes, name, result)
            figure.savefig(DOCS / "images" / f"{plot}.svg", metadata={"Date": None})


def _filled(found: re.Match[str], results: Mapping[str, Result]) -> str:
    result = results.get(found["name"])
    if result is None:
        return found[0]
    lines = "\n".join(table_lines(result.header, result.rows))
    return f"{found[1]}{lines}\n\nLoad of the machine: {result.load:.0f}.\n{found[3]}"


def _propagation(axes: Any, name: str, result: Result) -> None:
    """Draw which share of changes had reached the last worker after how long."""
    for (label, late), colour in zip(result.series.items(), COLOURS, strict=True):
        shares = [(number + 1) / len(late) * 100 for number in range(len(late))]
        axes.plot(sorted(late), shares, label=label, color=colour)
    axes.set(title=name.removeprefix("propagation "), xscale="log", ylabel="% of changes")
    axes.set_xlabel("ms from the commit to the last of 4 workers")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize="small", loc="lower right")


def _budget(axes: Any, _name: str, result: Result) -> None:
    """Draw when each step is reached: from the first process to the last, at the median."""
    names = [row[0] for row in result.rows]
    first, last = result.numbers("first p50"), result.numbers("last p50")
    colours = [COLOURS[2 if name.startswith("same") else 3] for name in names]
    widths = [max(end - begin, 0.02) for begin, end in zip(first, last, strict=True)]
    axes.barh(names, widths, left=first, color=colours)
    axes.invert_yaxis()
    axes.set_xlabel("ms after the commit, from the first process to the last")
    axes.grid(alpha=0.3, axis="x")


def _peers(axes: Any, _name: str, result: Result) -> None:
    """Draw what a read costs, in reads of the configuration."""
    measured = [row for row in result.rows if row[1] != "not measured"]
    ratios = result.numbers("ratio", measured)
    colours = [COLOURS[2] if "waffle" in row[0] else COLOURS[0] for row in measured]
    bars = axes.barh([row[0] for row in measured], ratios, color=colours)
    axes.bar_label(bars, [f"{ratio:g}" for ratio in ratios], padding=3, fontsize="small")
    axes.set(xscale="log", xlabel='a read, in reads of current_app.config["X"]')
    axes.margins(x=0.15)
    axes.invert_yaxis()


def _looks(axes: Any, _name: str, result: Result) -> None:
    """Draw what a look at all hosts takes."""
    for what, colour in (("wait", COLOURS[2]), ("status", COLOURS[3])):
        rows = [row for row in result.rows if row[1] == what]
        hosts, took = result.numbers("hosts", rows), result.numbers("ms (median)", rows)
        axes.plot(hosts, took, "o-", label=what, color=colour)
    axes.set(xscale="log", yscale="log", xlabel="hosts of 9 processes", ylabel="ms")
    axes.grid(alpha=0.3, which="both")
    axes.legend()


#: Plot -> the tables of its panels, its height in inches, and what draws a panel.
PLOTS: Mapping[str, tuple[Sequence[str], float, Callable[[Any, str, Result], None]]] = {
    "propagation": (("propagation sqlite", "propagation postgresql"), 3.6, _propagation),
    "budget": (("budget sqlite",), 5.6, _budget),
    "peers": (("peers",), 3.6, _peers),
    "looks": (("looks",), 3.6, _looks),
}


if __name__ == "__main__":
    main()
