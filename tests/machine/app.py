"""What the hosts serve: `tests.apps.elsewhere`, which says why it refuses an update."""

from __future__ import annotations

from flask import Response, jsonify

from tests.apps.elsewhere import app, waffle
from uwsgi_waffle import WaffleError

__all__ = ["app", "waffle"]


@app.errorhandler(WaffleError)
def refuse(error: WaffleError) -> tuple[Response, int]:
    """Say why an update was refused."""
    return jsonify(error=str(error)), 503
