"""A small HTTP client: one request, one connection, one deadline."""

from __future__ import annotations

import http.client
import json as json_module
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode


@dataclass(frozen=True)
class Response:
    """An answer, read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()

    def json(self) -> Any:
        """Return the body's JSON value."""
        return json_module.loads(self.body)


def request(  # noqa: PLR0913  each is one thing about the request
    method: str,
    path: str,
    *,
    port: int,
    json: object = None,
    form: Mapping[str, object] | None = None,
    headers: Mapping[str, str] | None = None,
    seconds: float = 10.0,
) -> Response:
    """Ask 127.0.0.1:*port*, with *json* or *form* as the body if one is given."""
    all_headers = dict(headers or {})
    body: bytes | None = None
    if form is not None:
        body = urlencode(form).encode()
        all_headers.setdefault("Content-Type", "application/x-www-form-urlencoded")
    elif json is not None:
        body = json_module.dumps(json).encode()
        all_headers.setdefault("Content-Type", "application/json")
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
    try:
        connection.request(method, path, body, all_headers)
        answer = connection.getresponse()
        received = {name.lower(): value for name, value in answer.getheaders()}
        return Response(answer.status, received, answer.read())
    except http.client.HTTPException as error:
        # A server that dies in the middle is, to its client, a broken connection.
        msg = f"{method} http://127.0.0.1:{port}{path}: {error!r}"
        raise ConnectionError(msg) from error
    finally:
        connection.close()
