"""What a change of one setting costs another process of the host, beside `json.loads` of the same.

::

    python -m tests.bench.catch_up
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from flask import Flask
from pydantic import Field, create_model

from tests.bench.table import print_table
from uwsgi_waffle import WaffleConf, WaffleSettings
from uwsgi_waffle.host.areas import encode_record

CHANGES = 60
SIZES = (20, 100, 500, 2_000)
#: The settings take turns.
KINDS: tuple[Any, ...] = (
    (int, Field(0, ge=0)),
    (str, Field("x", max_length=50)),
    (bool, True),
    (float, 1.5),
)
VALUES = (7, "seven", False, 7.5)


def main() -> None:
    """Print a line for each number of settings."""
    rows = [_measure(count) for count in SIZES]
    print_table("catch-up", ("settings", "json.loads, µs", "catch-up, µs", "ratio"), rows)


def _measure(count: int) -> list[str]:
    kinds = {f"S{n:04}": KINDS[n % len(KINDS)] for n in range(count)}
    model: type[WaffleSettings] = create_model("Many", __base__=WaffleSettings, **kinds)
    loads, catch_ups = [], []
    with tempfile.TemporaryDirectory() as folder:
        (_, writer), (app, reader) = (_application(folder, model) for _ in range(2))
        writer.update({f"S{n:04}": VALUES[n % len(VALUES)] for n in range(count)})
        state = app.extensions["waffleconf"]
        for value in range(CHANGES):
            writer.update({"S0000": 100 + value})
            found = state.host.read()
            loads.append(_seconds(partial(json.loads, encode_record(found[1]))))
            catch_ups.append(_seconds(lambda: reader.revision))
        state.retire()
    ratios = [mine / other for mine, other in zip(catch_ups, loads, strict=True)]
    figures = (statistics.median(found) * 1e6 for found in (loads, catch_ups))
    return [
        str(count),
        *(f"{figure:.0f}" for figure in figures),
        f"{statistics.median(ratios):.2f}",
    ]


def _application(folder: str, model: type[WaffleSettings]) -> tuple[Flask, WaffleConf[Any]]:
    app = Flask("many")
    app.config.update(
        WAFFLE_DATABASE_URI=f"sqlite:///{folder}/waffle.db",
        WAFFLE_SNAPSHOT_PATH=f"{folder}/snapshot",
        WAFFLE_POLL_SECONDS=3600,
    )
    waffle = WaffleConf(app, model)
    _ = waffle.settings  # lists this process
    return app, waffle


def _seconds(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
