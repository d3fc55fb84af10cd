"""The application of `tests.apps.elsewhere` for servers of ASGI, by way of a2wsgi."""

from __future__ import annotations

from typing import Any

from a2wsgi import WSGIMiddleware

from tests.apps import elsewhere

#: a2wsgi has a type of its own for what Flask is.
wsgi_app: Any = elsewhere.app
app = WSGIMiddleware(wsgi_app)
