"""What the hosts serve: `tests.apps.whole_numbers`, which says why it refuses an update."""

from __future__ import annotations

import time
from typing import Any

from flask import Response, jsonify

from tests.apps.whole_numbers import app, state, waffle
from tests.machine.ledger import LISTED_AT
from uwsgi_waffle import WaffleError

__all__ = ["app", "waffle"]

_listed_at = 0.0
_register = state.host.register


def register_and_note(*arguments: Any, **options: Any) -> None:
    """List this process, and note when that was."""
    global _listed_at  # noqa: PLW0603  # one for each process
    _register(*arguments, **options)
    _listed_at = time.clock_gettime(time.CLOCK_BOOTTIME)


state.host.register = register_and_note  # type: ignore[method-assign]


@app.after_request
def say_when_listed(response: Response) -> Response:
    """Tell when this process was listed."""
    response.headers[LISTED_AT] = str(_listed_at)
    return response


@app.errorhandler(WaffleError)
def refuse(error: WaffleError) -> tuple[Response, int]:
    """Say why an update was refused."""
    return jsonify(error=str(error)), 503
