"""A plain script that forks: `python -m tests.apps.forker DATABASE SNAPSHOT REDIS`.

The parent reads and writes, forks, and then parent and child each act on the other's signals,
over pipes. What the child found is printed as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import Any

from flask import Flask

from uwsgi_waffle import WaffleConf
from uwsgi_waffle.process.state import State

DEADLINE_SECONDS = 20.0


def listeners() -> int:
    """Return how many listener threads this process has."""
    return sum(thread.name == "waffle-listener" for thread in threading.enumerate())


def wait_for(found: Any) -> bool:
    """Return whether a condition comes true before the deadline."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        if found():
            return True
        time.sleep(0.01)
    return False


def sql_sockets(state: State) -> set[int]:
    """Return the socket to the database that this process's pool holds; SQLite has none."""
    with state.store.database.engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        held = getattr(driver, "_sock", driver)  # PyMySQL has it in an attribute
        return {os.fstat(held.fileno()).st_ino} if hasattr(held, "fileno") else set()


def main() -> None:
    """Fork, and print what the child and then the parent found."""
    database, snapshot, redis_url = sys.argv[1:]
    app = Flask("forker")
    app.config.update(
        WAFFLE_DATABASE_URI=database,
        WAFFLE_SNAPSHOT_PATH=snapshot,
        WAFFLE_REDIS_URL=redis_url,
        WAFFLE_MULTIPROC=True,
        WAFFLE_POLL_SECONDS=3600,
        WAFFLE_CONFS={"A": {"default": 0}, "B": {"default": 0}},
    )
    waffle: WaffleConf[Any] = WaffleConf(app)
    state: State = app.extensions["waffleconf"]
    called: list[int] = []
    waffle.on_change("A")(called.append)
    found: dict[str, Any] = {"threads_before": listeners()}
    waffle.update({"A": 1})
    found["read_in_parent"] = waffle.settings.A
    found["threads_in_parent"] = listeners()
    held = sql_sockets(state)
    to_child, from_parent = os.pipe(), os.pipe()
    if os.fork() == 0:
        called.clear()
        found["threads_in_child_at_once"] = listeners()
        found["connection_is_shared"] = bool(sql_sockets(state) & held)
        os.write(from_parent[1], b"x")  # the child is up
        # Idle: only its own listener, or a read, brings what the parent does next.
        found["child_called_while_idle"] = wait_for(lambda: called == [2])
        found["read_in_child"] = waffle.settings.A
        found["child_writes"] = waffle.update({"B": 5}).revision
        print(json.dumps(found), flush=True)  # noqa: T201
        os.write(from_parent[1], b"x")
        os.read(to_child[0], 1)
        os._exit(0)
    os.read(from_parent[0], 1)
    waffle.update({"A": 2})
    os.read(from_parent[0], 1)
    after = {
        "parent_sees": waffle.settings.B,
        "parent_threads": listeners(),
        "parent_still_works": waffle.update({"B": 6}).revision,
    }
    print(json.dumps(after), flush=True)  # noqa: T201
    os.write(to_child[1], b"x")
    os.wait()


if __name__ == "__main__":
    main()
