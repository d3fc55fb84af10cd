"""An application for any server: reads, writes, and a journal of its callbacks.

Its environment configures it: each `WAFFLE_*` variable is the configuration key of that name,
`TEST_SETTINGS` how many settings there are, `TEST_MOST` the largest value that they accept,
`TEST_JOURNAL` where callbacks write to, and `TEST_CALLBACK_SECONDS` how long they then take.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from flask import Flask, Response, jsonify, request

from uwsgi_waffle import WaffleConf
from uwsgi_waffle.process.state import State
from uwsgi_waffle.values.snapshot import Record

#: The settings: whole numbers, 0 by default. A test sets them all to one number, so a mix shows.
NAMES = tuple(f"S{number:03}" for number in range(int(os.environ.get("TEST_SETTINGS", "20"))))
MOST = int(os.environ.get("TEST_MOST", str(10**12)))

app = Flask(__name__)
# WAFFLE_DEMO_ADDRESS, which every test's uWSGI gets, is meant for the ini files of the demo.
app.config.update(
    {
        key: text
        for key, text in os.environ.items()
        if key.startswith("WAFFLE_") and key != "WAFFLE_DEMO_ADDRESS"
    }
)
app.config["WAFFLE_CONFS"] = {name: {"default": 0, "le": MOST} for name in NAMES}
waffle: WaffleConf[Any] = WaffleConf(app)
state: State = app.extensions["waffleconf"]


_committed_ns = 0
_write = state.store.write


def write_and_note(*arguments: Any, **options: Any) -> Record:
    """Write, and note when that was committed."""
    global _committed_ns  # noqa: PLW0603  # read in the request that writes
    record = _write(*arguments, **options)
    _committed_ns = time.monotonic_ns()
    return record


state.store.write = write_and_note  # type: ignore[method-assign]


@waffle.on_change(NAMES[0])
def keep_journal(new: int) -> None:
    """Write down a value that this process was called back with, and when."""
    journal = os.environ.get("TEST_JOURNAL")
    if journal is None:
        return
    entry = {"pid": os.getpid(), "value": new, "at_ns": time.monotonic_ns()}
    # One write at the end of the file: those of other processes cannot come in between.
    descriptor = os.open(Path(journal), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, f"{json.dumps(entry)}\n".encode())
    finally:
        os.close(descriptor)
    time.sleep(float(os.environ.get("TEST_CALLBACK_SECONDS", "0")))


@app.get("/")
def read() -> Response:
    """Return what this process serves; the request lasts `hold` seconds."""
    held = request.args.get("hold", 0.0, type=float)
    first = waffle.settings.model_dump()
    if held:
        time.sleep(held)
    return jsonify(
        pid=os.getpid(),
        revision=waffle.revision,
        values=first,
        # What a request sees stays the same, while the process may follow a change.
        again=waffle.settings.model_dump(),
        config={name: app.config[name] for name in NAMES},
    )


@app.post("/update")
def update() -> Response:
    """Change settings, and return when that was committed and when `update` returned."""
    done = waffle.update(request.get_json())
    return jsonify(
        pid=os.getpid(),
        revision=done.revision,
        announced=done.announced,
        committed_ns=_committed_ns,
        returned_ns=time.monotonic_ns(),
    )
