"""The application of `whole_numbers` with views for probes and for Prometheus.

`TEST_STANDSTILL` is after how many seconds a listener counts as standing still.
"""

from __future__ import annotations

import os
from typing import Any

from flask import Response, jsonify

from tests.apps.whole_numbers import app, waffle, who
from uwsgi_waffle.ops import health

__all__ = ["app"]

health.STANDSTILL_SECONDS = float(os.environ.get("TEST_STANDSTILL", health.STANDSTILL_SECONDS))


@app.get("/health")
def show_health() -> Response:
    """Return what a probe is told of this process."""
    found = waffle.health()
    return jsonify(**who(), ready=found.ready, live=found.live, reasons=found.reasons)


@app.get("/metrics")
def show_metrics() -> Response:
    """Return the metrics of this host, and which process has answered."""
    answer: dict[str, Any] = {**who(), "text": waffle.metrics()}
    return jsonify(answer)
