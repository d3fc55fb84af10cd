"""Flask-WaffleConf 0.3.1 in the place of uwsgi_waffle, for `tests.bench.propagation`.

Beside the addresses it gets what it needs to run on today's Flask-SQLAlchemy: an application
context for the thread that listens. It publishes on the default Redis, whichever it listens to.
"""

from __future__ import annotations

import fcntl
import functools
import os
import time
from pathlib import Path
from typing import Any

from flask import Flask, Response, jsonify, request
from flask_sqlalchemy import SQLAlchemy
from flask_waffleconf import AlchemyWaffleStore, WaffleConf, WaffleMixin, util, watcher

from tests.apps.notes import keep_journal

NAMES = [f"S{number:03}" for number in range(int(os.environ["TEST_SETTINGS"]))]

app = Flask(__name__)
app.config.update(
    SQLALCHEMY_DATABASE_URI=os.environ["WAFFLE_DATABASE_URI"],
    WAFFLE_CONFS={name: {"desc": name, "default": 0} for name in NAMES},
    WAFFLE_MULTIPROC=True,
    WAFFLE_WATCHTYPE="redis",
    WAFFLE_REDIS_PORT=int(os.environ["TEST_REDIS_PORT"]),
    WAFFLE_REDIS_CHANNEL=os.environ["WAFFLE_REDIS_CHANNEL"],
)
db = SQLAlchemy(app)


class Setting(WaffleMixin, db.Model):  # type: ignore[misc, name-defined]
    """One row for each setting."""

    __tablename__ = "ancestor"
    id = db.Column(db.Integer, primary_key=True)
    key = db.Column(db.String(64), unique=True)
    value = db.Column(db.Text)


def make_rows() -> None:
    """Make the table with the defaults, once."""
    with Path(os.environ["TEST_LOCK"]).open("w") as lock, app.app_context():
        fcntl.flock(lock, fcntl.LOCK_EX)
        db.create_all()
        if not Setting.query.count():
            rows = [Setting(key=name, value=util.serialize(0)) for name in NAMES]
            db.session.add_all(rows)
            db.session.commit()


def follow() -> None:
    """Read all settings, as the thread that listens does, and write down when that was done."""
    with app.app_context():
        update_conf()
    keep_journal(0, app.config[NAMES[0]])


make_rows()
port = app.config["WAFFLE_REDIS_PORT"]
watcher.redis.client.StrictRedis = functools.partial(watcher.redis.client.Redis, port=port)
state: Any = WaffleConf(app, AlchemyWaffleStore(db=db, model=Setting)).state
update_conf, state.update_conf = state.update_conf, follow


@app.get("/")
def index() -> str:
    """Answer anything."""
    return "ready"


@app.post("/update")
def update() -> Response:
    """Change settings, and return when that was committed."""
    notify, committed_ns = state.notify, []

    def notify_and_note(of: Any) -> None:
        committed_ns.append(time.monotonic_ns())
        keep_journal(0, app.config[NAMES[0]])
        notify(of)

    state.notify = notify_and_note
    state.update_db(request.get_json())
    state.notify = notify
    return jsonify(committed_ns=committed_ns[0])
