"""Refusing requests that another site makes a browser send."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from urllib.parse import urlsplit

from flask import Response, abort, request

from .forms import has_valid_token

__all__ = ["guarded"]


def guarded(view: Callable[[], Response]) -> Callable[[], Response]:
    """Let a request change something only if no other site can have made a browser send it.

    A browser adds the cookies, password or certificate that it has for this site to any request.

    - The content type must be JSON, which a form cannot send, and which another site's script may
      send only after a preflight that is not answered here.
    - Browsers send the origin of a request in ``Sec-Fetch-Site`` and ``Origin``, which scripts
      cannot set; another origin is refused, also where the application answers preflights.
    - A request with a cookie counts as a browser's: it must have this site's origin, or the token
      of its session in ``X-CSRFToken``.
    """

    @wraps(view)
    def guard() -> Response:
        if not request.is_json:
            abort(415, "Send JSON, with Content-Type: application/json.")
        is_ours = _has_our_origin()
        if is_ours is False:
            abort(403, "This request comes from another site.")
        has_token = has_valid_token(request.headers.get("X-CSRFToken"))
        if request.headers.get("Cookie") and not (is_ours or has_token):
            abort(
                403,
                "A request with a cookie must have the token of its session in X-CSRFToken, or "
                "this site's origin in Origin.",
            )
        return view()

    return guard


def _has_our_origin() -> bool | None:
    """Return whether a request has this site's origin, ``None`` where it has none."""
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site == "same-origin"
    origin = request.headers.get("Origin")
    if origin is None:
        return None
    ours = urlsplit(request.host_url)
    return origin.lower() == f"{ours.scheme}://{ours.netloc}".lower()
