"""The application of `tests.apps.elsewhere` for servers of ASGI, by way of a2wsgi."""

from __future__ import annotations

from a2wsgi import WSGIMiddleware

from tests.apps.elsewhere import app as wsgi_app

app = WSGIMiddleware(wsgi_app)
