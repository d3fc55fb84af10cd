"""The application of `whole_numbers`, with a way to fill uWSGI's signal queues."""

from __future__ import annotations

import time

import uwsgi
from flask import Response, jsonify, request

from tests.apps.whole_numbers import app

#: A signal of the application's own, for every worker; it has to be loaded in the master.
OTHER_SIGNAL = 99
uwsgi.register_signal(OTHER_SIGNAL, "workers", lambda _number: None)


@app.post("/signals")
def raise_signals() -> Response:
    """Raise the other signal as often as asked."""
    for number in range(request.get_json()):
        uwsgi.signal(OTHER_SIGNAL)
        if number % 100 == 0:
            time.sleep(0.01)  # the master takes one at a time
    return jsonify(raised=request.get_json())


@app.post("/threads")
def count_threads() -> Response:
    """Return how many threads the master has."""
    with open(f"/proc/{uwsgi.masterpid()}/status") as file:  # noqa: PTH123  no path, a question
        found = next(line for line in file if line.startswith("Threads:"))
    return jsonify(int(found.split()[1]))
