"""The application of `tests.apps.whole_numbers` for servers of ASGI, by way of a2wsgi."""

from __future__ import annotations

from typing import Any

from a2wsgi import WSGIMiddleware

from tests.apps import whole_numbers

#: a2wsgi has a type of its own for what Flask is.
wsgi_app: Any = whole_numbers.app
app = WSGIMiddleware(wsgi_app)
