"""A process that writes settings: `python -m tests.apps.writer MODE DATABASE SNAPSHOT COUNT`.

It says "ready", starts when it is told to, and prints what became of its writes as JSON.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from flask import Flask

from tests.support.declarations import Bounds
from uwsgi_waffle import InvalidSetting, RevisionConflict, WaffleConf
from uwsgi_waffle.process.state import State


class Settings(Bounds):
    """What the writers write."""

    LAST: str = ""
    COUNTER: int = 0
    HI: int = 100


Outcome = dict[str, Any]


def write_unique(waffle: WaffleConf[Settings], _state: State, count: int) -> Outcome:
    """Write values that nobody else writes, so each makes a revision."""
    pid = os.getpid()
    done = [waffle.update({"LAST": f"{pid} {i}", "COUNTER": i}) for i in range(count)]
    return {"revisions": [update.revision for update in done]}


def count_up(waffle: WaffleConf[Settings], state: State, count: int) -> Outcome:
    """Read, add one and write, provided that nobody has written in between."""
    revisions: list[int] = []
    refused: list[tuple[int, int]] = []
    for _ in range(count):
        record = state.store.read()
        counter = int((record.rows or {}).get("COUNTER", "0"))
        try:
            done = waffle.update({"COUNTER": counter + 1}, expected_revision=record.revision)
        except RevisionConflict as conflict:
            refused.append((conflict.expected, conflict.actual))
        else:
            revisions.append(done.revision)
    return {"revisions": revisions, "refused": refused}


def move_bounds(waffle: WaffleConf[Settings], _state: State, count: int) -> Outcome:
    """Move a bound anywhere it may be by itself."""
    rng = random.Random(os.getpid())  # noqa: S311  guards nothing
    revisions: list[int] = []
    refused = 0
    for _ in range(count):
        try:
            done = waffle.update({rng.choice(["LO", "HI"]): rng.randrange(101)})
        except InvalidSetting:
            refused += 1
        else:
            revisions.append(done.revision)
    return {"revisions": revisions, "refused": refused}


def die_in_transaction(waffle: WaffleConf[Settings], state: State, _count: int) -> Outcome:
    """Be killed when everything is written and nothing committed."""
    engine = state.store.database.engine
    sa.event.listen(engine, "commit", lambda _: os.kill(os.getpid(), signal.SIGKILL))
    waffle.update({"LAST": "never", "COUNTER": -1})
    return {}


MODES: dict[str, Callable[[WaffleConf[Settings], State, int], Outcome]] = {
    "unique": write_unique,
    "count": count_up,
    "bounds": move_bounds,
    "die": die_in_transaction,
}


def main() -> None:
    """Do what the command line says."""
    mode, database, snapshot, count = sys.argv[1:]
    app = Flask("writer")
    app.config.update(WAFFLE_DATABASE_URI=database, WAFFLE_SNAPSHOT_PATH=snapshot)
    waffle = WaffleConf(app, Settings)
    print("ready", flush=True)  # noqa: T201  the parent waits for it
    sys.stdin.readline()
    print(json.dumps(MODES[mode](waffle, app.extensions["waffleconf"], int(count))))  # noqa: T201


if __name__ == "__main__":
    main()
