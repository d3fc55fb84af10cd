"""An application for 0.1.0 and this release alike: it uses only names that both have."""

from __future__ import annotations

import os
from typing import Any

from flask import Flask, Response, jsonify, request

from uwsgi_waffle import NotConverged, WaffleConf

app = Flask(__name__)
for _name in ("DATABASE_URI", "REDIS_URL", "POLL_SECONDS", "SNAPSHOT_PATH", "MULTIPROC"):
    if f"WAFFLE_{_name}" in os.environ:
        app.config[f"WAFFLE_{_name}"] = os.environ[f"WAFFLE_{_name}"]
app.config["WAFFLE_CONFS"] = {
    "HERE": {"default": 0},
    "THERE": {"default": 0},
    "TOKEN": {"default": "", "secret": True},
}
waffle: WaffleConf[Any] = WaffleConf(app)


@app.get("/")
def read() -> Response:
    """Return what this worker serves."""
    return jsonify(
        pid=os.getpid(),
        revision=waffle.revision,
        HERE=waffle.settings.HERE,
        THERE=waffle.settings.THERE,
        TOKEN=waffle.settings.TOKEN,
    )


@app.post("/update")
def update() -> Response:
    """Change settings."""
    return jsonify(revision=waffle.update(request.get_json()).revision)


@app.post("/rollback")
def roll_back() -> Response:
    """Go back to a revision."""
    return jsonify(revision=waffle.rollback(request.get_json()).revision)


@app.get("/history")
def history() -> Response:
    """Return the changes, newest first."""
    return jsonify([[c.revision, c.name, c.new] for c in waffle.history(limit=None)])


@app.get("/status")
def status() -> Response:
    """Return which hosts are known, and what is wrong."""
    found = waffle.status()
    return jsonify(hosts=[host.id for host in found.hosts], problems=list(found.problems))


@app.post("/wait")
def wait() -> Response:
    """Return which hosts serve the present revision, or what is missing."""
    try:
        fleet = waffle.wait(waffle.revision)
    except NotConverged as error:
        return jsonify(missing=str(error))
    return jsonify(hosts=[host.id for host in fleet.hosts])
