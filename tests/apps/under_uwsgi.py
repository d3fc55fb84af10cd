"""An application for uWSGI: who answered, what it serves, and a journal of callbacks.

Each ``WAFFLE_*`` variable of its environment is the configuration key of that name; the
``TEST_*`` variables make it misbehave in the ways the tests need.
"""

from __future__ import annotations

import logging
import os
import subprocess
import time
from pathlib import Path
from typing import Annotated, Any

import uwsgi
from flask import Flask, Response, current_app, jsonify, request
from pydantic import AfterValidator

from uwsgi_waffle import WaffleConf
from uwsgi_waffle.process.state import State

#: A test sets all three to one number, so that a mix of two revisions shows.
NAMES = ("FIRST", "SECOND", "THIRD")
#: Setting these values makes a validator or a callback misbehave.
HANG_IN_MULE = -1
LEAVE = -2
HANG_IN_CALLBACK = -3
INTERRUPT = -4

logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
loaded_in = os.getpid()


if os.path.exists(os.environ.get("TEST_BROKEN", "")):  # noqa: PTH110  # a release that cannot load
    message = "this release is broken"
    raise RuntimeError(message)


def create_app(namespace: str | None = None) -> Flask:
    """Return a new application, in a namespace of its own if one is given."""
    app = Flask(__name__)
    for key, text in os.environ.items():
        if key.startswith("WAFFLE_") and key != "WAFFLE_DEMO_ADDRESS":
            app.config[key] = text
    if namespace is not None:
        app.config["WAFFLE_NAMESPACE"] = namespace
        app.config["WAFFLE_SNAPSHOT_PATH"] += f"-{namespace}"
    app.config["WAFFLE_CONFS"] = {name: {"default": 0} for name in NAMES}
    app.config["WAFFLE_CONFS"]["SECOND"]["type"] = Annotated[int, AfterValidator(hang_in_mule)]
    waffle: WaffleConf[Any] = WaffleConf(app)
    app.extensions["test_waffle"] = waffle
    waffle.on_change("FIRST")(keep_journal)
    waffle.on_change("SECOND")(misbehave)
    app.add_url_rule("/", view_func=read)
    app.add_url_rule("/update", view_func=update, methods=["POST"])
    app.add_url_rule("/state", view_func=state)
    app.add_url_rule("/child", view_func=run_child, methods=["POST"])
    return app


def keep_journal(old: int, new: int) -> None:
    """Write down from which value to which this process was called back."""
    journal = os.environ.get("TEST_JOURNAL")
    if journal is not None:
        with open(journal, "ab", buffering=0) as file:  # noqa: PTH123  # one write, at the end
            file.write(f"{os.getpid()} {uwsgi.worker_id()} {old} {new}\n".encode())


def hang_in_mule(value: int) -> int:
    """Hang the mule, as a validator with a bug would, but not its successor."""
    if value == HANG_IN_MULE and uwsgi.mule_id():
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


def read() -> Response:
    """Return who answers and what it serves; the request lasts ``hold`` seconds."""
    waffle: WaffleConf[Any] = current_app.extensions["test_waffle"]
    first = waffle.settings.model_dump()
    held = request.args.get("hold", 0.0, type=float)
    if held:
        time.sleep(held)
    return jsonify(
        pid=os.getpid(),
        worker=uwsgi.worker_id(),
        revision=waffle.revision,
        values=first,
        again=waffle.settings.model_dump(),
        config={name: current_app.config[name] for name in NAMES},
    )


def update() -> Response:
    """Set all settings to one number."""
    waffle: WaffleConf[Any] = current_app.extensions["test_waffle"]
    done = waffle.update(dict.fromkeys(NAMES, request.get_json()))
    return jsonify(pid=os.getpid(), worker=uwsgi.worker_id(), revision=done.revision)


def run_child() -> Response:
    """Start children: one that runs another program, and one that reads no setting."""
    subprocess.Popen(["sleep", "30"], preexec_fn=lambda: None)  # noqa: PLW1509, S607
    if os.fork() == 0:
        time.sleep(30)
        os._exit(0)
    return jsonify(pid=os.getpid())


def state() -> Response:
    """Return what the process knows about its listener."""
    here: State = current_app.extensions["waffleconf"]
    environment = here.environment
    return jsonify(
        pid=os.getpid(),
        worker=uwsgi.worker_id(),
        loaded_in=loaded_in,
        place=None if here.place is None else here.place.value,
        environment=type(environment).__name__,
        heartbeat_age=here.host.heartbeat_age_seconds(),
        # What /state itself served is left out of account: these are the process's own.
        held_revision=here.serving.current.revision,
        processes=[
            [slot.role, slot.worker, slot.pid, slot.follows] for slot in here.host.slots.living()
        ],
        calling={slot.pid: slot.calling for slot in here.host.slots.living()},
    )


app = application = create_app()
