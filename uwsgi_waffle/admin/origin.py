"""Telling requests that somebody meant from those that another site makes a browser send."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from urllib.parse import urlsplit

from flask import Response, abort, request

from .forms import has_valid_token

__all__ = ["guarded"]


def guarded(view: Callable[[], Response]) -> Callable[[], Response]:
    """Let a request change something only if no other site can have made a browser send it.

    A browser adds to a request whatever it holds for us: cookies, a password, a certificate.

    - The body is JSON by its content type, which no form can send, and which another site's
      script may send only after a preflight that nobody here answers.
    - Browsers say where a request comes from, in ``Sec-Fetch-Site`` and ``Origin``, which scripts
      cannot set; any place but ours is refused, also where the application answers preflights.
    - A request with a cookie is a browser's until shown otherwise: it must say that it comes from
      here, or bring the token of its session in ``X-CSRFToken``.
    """

    @wraps(view)
    def guard() -> Response:
        if not request.is_json:
            abort(415, "Send JSON, with Content-Type: application/json.")
        is_ours = _comes_from_here()
        if is_ours is False:
            abort(403, "This request comes from another site.")
        has_token = has_valid_token(request.headers.get("X-CSRFToken"))
        if request.headers.get("Cookie") and not (is_ours or has_token):
            abort(
                403,
                "A request with a cookie must bring the token of its session in X-CSRFToken, or "
                "an Origin that is ours.",
            )
        return view()

    return guard


def _comes_from_here() -> bool | None:
    """Return whether a browser says that a request comes from our pages; ``None``: it is silent."""
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site == "same-origin"
    origin = request.headers.get("Origin")
    if origin is None:
        return None
    ours = urlsplit(request.host_url)
    return origin.lower() == f"{ours.scheme}://{ours.netloc}".lower()
