"""What a fresh process takes to import the extension and to set an application up.

::

    python -m tests.bench.start
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa
from flask import Flask
from pydantic import BaseModel, SecretStr, TypeAdapter

from tests.bench.table import print_table

ROUNDS = 9
SETTINGS = 20


class Model(BaseModel):
    """Has pydantic load what an application with a model has loaded."""

    key: SecretStr = SecretStr("")


def main() -> None:
    """Print the table, or the figures of this process where a row of it is named."""
    if sys.argv[1:]:
        print(*_beyond_libraries(*sys.argv[1:]))  # noqa: T201
        return
    found: dict[str, list[list[float]]] = {name: [] for name in WHAT}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(-1, ROUNDS):  # the first one compiles
            for name in list(WHAT)[:: 1 if turn % 2 else -1]:
                taken = _in_fresh_process(name, f"{folder}/{turn}{name}")
                found[name] += [] if turn < 0 else [taken]
    rows = []
    for name, figures in found.items():
        cpu_ms, mebibytes, libraries_ms = map(statistics.median, zip(*figures, strict=True))
        ratio = f"{cpu_ms / libraries_ms:.2f}"
        rows.append((name, f"{cpu_ms:.0f} ms", ratio, f"{mebibytes:.1f} MiB"))
    print_table("start", ("beyond the libraries", "CPU", "/ theirs", "memory"), rows)


def _in_fresh_process(name: str, path: str) -> list[float]:
    command = [sys.executable, "-m", "tests.bench.start", name, path]
    if name.startswith("a later"):
        subprocess.run(command, check=True, capture_output=True)
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [float(figure) for figure in done.stdout.split()]


def _beyond_libraries(name: str, path: str) -> tuple[float, float, float]:
    """Return milliseconds and mebibytes of a row, and the milliseconds that came before it."""
    TypeAdapter(int)
    before, held = time.process_time(), _resident_mebibytes()
    WHAT[name](path)
    taken = time.process_time() - before
    return taken * 1e3, _resident_mebibytes() - held, before * 1e3


def _resident_mebibytes() -> float:
    smaps = Path("/proc/self/smaps_rollup").read_text()
    return int(smaps.split("Rss:")[1].split()[0]) / 1024


def _connect(path: str) -> None:
    """Do what SQLAlchemy does for any user of SQLite."""
    engine = sa.create_engine(f"sqlite:///{path}.db")
    with engine.connect() as connection:
        connection.execute(sa.select(sa.literal(1)))
    engine.dispose()


def _set_up(path: str, *, multiproc: bool = False) -> None:
    from uwsgi_waffle import WaffleConf

    app = Flask("waffled")
    app.config.update(
        WAFFLE_CONFS={f"S{n:03}": {"default": 0} for n in range(SETTINGS)},
        WAFFLE_DATABASE_URI=f"sqlite:///{path}.db",
        WAFFLE_SNAPSHOT_PATH=f"{path}.snapshot",
        WAFFLE_MULTIPROC=multiproc,
    )
    WaffleConf(app)


WHAT: dict[str, Callable[[str], None]] = {
    "one SELECT of SQLite, by SQLAlchemy alone": _connect,
    "the first start, which makes the tables": _set_up,
    "a later start": _set_up,
    "a later start, with WAFFLE_MULTIPROC": lambda path: _set_up(path, multiproc=True),
}


if __name__ == "__main__":
    main()
