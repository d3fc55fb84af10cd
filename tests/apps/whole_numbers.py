"""An application for any server: reads, writes, a journal of callbacks, and ways to misbehave.

Its environment configures it: each `WAFFLE_*` variable is the configuration key of that name,
`TEST_SETTINGS` how many settings there are, `TEST_MOST` the largest value that they accept,
`TEST_JOURNAL` where callbacks write to, and `TEST_CALLBACK_SECONDS` how long they then take. It
does not load while the file `TEST_BROKEN` exists.
"""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Annotated, Any

from flask import Flask, Response, current_app, jsonify, request
from pydantic import AfterValidator

from tests.apps.misbehaviour import HANG_IN_CALLBACK, HANG_IN_MULE, INTERRUPT, LEAVE
from tests.apps.notes import keep_journal
from uwsgi_waffle import WaffleConf
from uwsgi_waffle.process.state import State
from uwsgi_waffle.values.snapshot import Record

try:
    import uwsgi
except ImportError:  # another server
    uwsgi = None

#: The settings: whole numbers, 0 by default. A test sets them all to one number, so a mix shows.
NAMES = tuple(f"S{number:03}" for number in range(int(os.environ.get("TEST_SETTINGS", "20"))))
MOST = int(os.environ.get("TEST_MOST", str(10**12)))

loaded_in = os.getpid()
_committed_ns = 0

if Path(os.environ.get("TEST_BROKEN", "")).is_file():
    message = "this release is broken"
    raise RuntimeError(message)


def create_app(namespace: str | None = None) -> Flask:
    """Return a new application, in a namespace of its own if one is given."""
    app = Flask(__name__)
    # WAFFLE_DEMO_ADDRESS, which every test's uWSGI gets, is meant for the ini files of the demo.
    app.config.update(
        {
            key: text
            for key, text in os.environ.items()
            if key.startswith("WAFFLE_") and key != "WAFFLE_DEMO_ADDRESS"
        }
    )
    if namespace is not None:
        app.config["WAFFLE_NAMESPACE"] = namespace
        app.config["WAFFLE_SNAPSHOT_PATH"] += f"-{namespace}"
    confs: dict[str, dict[str, Any]] = {name: {"default": 0, "le": MOST} for name in NAMES}
    app.config["WAFFLE_CONFS"] = confs
    confs[NAMES[1]]["type"] = Annotated[int, AfterValidator(hang_in_mule)]
    waffle: WaffleConf[Any] = WaffleConf(app)
    app.extensions["test_waffle"] = waffle
    note_commits(app.extensions["waffleconf"])
    waffle.on_change(NAMES[0])(keep_journal)
    waffle.on_change(NAMES[1])(misbehave)
    app.add_url_rule("/", view_func=read)
    app.add_url_rule("/update", view_func=update, methods=["POST"])
    app.add_url_rule("/state", view_func=show_state)
    app.add_url_rule("/child", view_func=run_child, methods=["POST"])
    return app


def note_commits(of: State) -> None:
    """Note when each write was committed."""
    write = of.store.write

    def write_and_note(*arguments: Any, **options: Any) -> Record:
        global _committed_ns  # noqa: PLW0603  # read in the request that writes
        record = write(*arguments, **options)
        _committed_ns = time.monotonic_ns()
        return record

    of.store.write = write_and_note  # type: ignore[method-assign]


def hang_in_mule(value: int) -> int:
    """Hang the mule, as a validator with a bug would, but not its successor."""
    if value == HANG_IN_MULE and uwsgi is not None and uwsgi.mule_id():
        hung = Path(os.environ["TEST_JOURNAL"] + ".hung")
        if not hung.exists():
            hung.touch()
            time.sleep(3600)
    return value


def misbehave(new: int) -> None:
    """End the process, or never return, as a callback with a bug would."""
    if new == LEAVE:
        raise SystemExit(1)
    if new == INTERRUPT:
        raise KeyboardInterrupt
    if new == HANG_IN_CALLBACK:
        time.sleep(3600)


def who() -> dict[str, int]:
    """Return which process this is: its pid, and the number of the worker under uWSGI."""
    return {"pid": os.getpid(), "worker": 0 if uwsgi is None else uwsgi.worker_id()}


def read() -> Response:
    """Return what this process serves; the request lasts `hold` seconds."""
    held = request.args.get("hold", 0.0, type=float)
    here: WaffleConf[Any] = current_app.extensions["test_waffle"]
    first = here.settings.model_dump()
    if held:
        time.sleep(held)
    return jsonify(
        **who(),
        revision=here.revision,
        values=first,
        # What a request sees stays the same, while the process may follow a change.
        again=here.settings.model_dump(),
        config={name: current_app.config[name] for name in NAMES},
    )


def update() -> Response:
    """Change settings, and return when that was committed and when `update` returned."""
    done = current_app.extensions["test_waffle"].update(request.get_json())
    return jsonify(
        **who(),
        revision=done.revision,
        announced=done.announced,
        committed_ns=_committed_ns,
        returned_ns=time.monotonic_ns(),
    )


def run_child() -> Response:
    """Start children: one that runs another program, and one that reads no setting."""
    subprocess.Popen(["sleep", "30"], preexec_fn=lambda: None)  # noqa: PLW1509, S607
    if os.fork() == 0:
        time.sleep(30)
        os._exit(0)
    return jsonify(who())


def show_state() -> Response:
    """Return what the process knows about its listener."""
    here: State = current_app.extensions["waffleconf"]
    return jsonify(
        **who(),
        loaded_in=loaded_in,
        place=None if here.place is None else here.place.value,
        environment=type(here.environment).__name__,
        processes=[
            [slot.role, slot.worker, slot.pid, slot.follows] for slot in here.host.slots.living()
        ],
        calling={slot.pid: slot.calling for slot in here.host.slots.living()},
    )


app = application = create_app()
waffle: WaffleConf[Any] = app.extensions["test_waffle"]
state: State = app.extensions["waffleconf"]
