"""The blueprint: which path leads to which view, who has permission, and common headers."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flask import Blueprint, Response, abort, g, make_response, render_template, request
from werkzeug.exceptions import (
    HTTPException,
    InternalServerError,
    MethodNotAllowed,
    ServiceUnavailable,
)
from werkzeug.sansio.utils import host_is_trusted

from uwsgi_waffle.errors import ConfigError, StoreUnavailable

from . import api, changes, pages
from .forms import check_secret_key
from .origin import guarded
from .permission import Authorize, as_permission
from .viewer import Viewer

if TYPE_CHECKING:
    from uwsgi_waffle.process.state import State

__all__ = ["make_blueprint"]

logger = logging.getLogger(__name__)

#: Only the package's own files, no code or style within a page, and forms for this site only.
_CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _CONTENT_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
#: How many fields of a form are read beside a few for each setting.
_MOST_OTHER_FIELDS = 100
_FIELDS_OF_A_SETTING = 5

View = Callable[..., Any]


def make_blueprint(
    state: Callable[[], State], authorize: Authorize, trusted_hosts: Iterable[str] | None = None
) -> Blueprint:
    """Return the pages and the JSON interface of one extension.

    :param state: returns the state of the current application
    :param trusted_hosts: the hosts that a request may name, ``None`` for any
    :raises ConfigError: *authorize* cannot be called
    """
    if not callable(authorize):
        message = (
            "waffle.admin(authorize=...) needs a function that is given the request and returns "
            f"the actor's name, a Permission or None, not {authorize!r}."
        )
        raise ConfigError(message, value=authorize)
    blueprint = Blueprint(
        "waffle_admin",
        __name__,
        template_folder="templates",
        static_folder="static",
        static_url_path="/static",
    )
    if trusted_hosts is not None:
        blueprint.before_request(_check_host(trusted_hosts))
    blueprint.before_request(_gate(state, authorize))
    blueprint.after_request(_protect)
    blueprint.register_error_handler(HTTPException, _refuse)
    blueprint.register_error_handler(StoreUnavailable, _refuse_without_store)
    blueprint.register_error_handler(ConfigError, _refuse_without_key)
    blueprint.context_processor(lambda: {"asset_version": _asset_version()})
    _add_pages(blueprint)
    _add_api(blueprint)
    return blueprint


def _add_pages(blueprint: Blueprint) -> None:
    _route(blueprint, "/", "settings", GET=pages.settings_page)
    _route(blueprint, "/edit", "edit", POST=changes.edit)
    _route(blueprint, "/review", "review", POST=changes.review)
    _route(blueprint, "/save", "save", POST=changes.save_review)
    _route(blueprint, "/revision/<int:revision>", "revision", GET=pages.show_revision)
    _route(blueprint, "/revision/<int:revision>/processes", "progress", GET=pages.show_progress)
    _route(blueprint, "/history", "history", GET=pages.show_history)
    _route(blueprint, "/compare", "compare", GET=pages.compare)
    _route(
        blueprint,
        "/rollback/<int:revision>",
        "rollback",
        GET=changes.show_rollback,
        POST=changes.roll_back,
    )
    _route(blueprint, "/status", "status", GET=pages.show_status)
    _route(blueprint, "/<path:_rest>", "nowhere", GET=_nowhere)


def _add_api(blueprint: Blueprint) -> None:
    _route(
        blueprint,
        "/api/settings",
        "api_settings",
        GET=api.get_settings,
        PATCH=guarded(api.patch_settings),
    )
    _route(blueprint, "/api/history", "api_history", GET=api.get_history)
    _route(blueprint, "/api/rollback", "api_rollback", POST=guarded(api.post_rollback))
    _route(blueprint, "/api/status", "api_status", GET=api.get_status)
    _route(blueprint, "/api/openapi.json", "api_document", GET=api.get_document)
    _route(blueprint, "/api/<path:_rest>", "api_nowhere", GET=_nowhere)


def _route(blueprint: Blueprint, path: str, endpoint: str, **views: View) -> None:
    """Lead a path to a view for each method.

    All methods are handled here: what Werkzeug refuses by itself would lack our headers.
    """
    allowed = [*views, "OPTIONS", *(["HEAD"] if "GET" in views else [])]

    def dispatch(**arguments: Any) -> Any:
        method = "GET" if request.method == "HEAD" else request.method
        if method == "OPTIONS":
            return Response(headers={"Allow": ", ".join(allowed)})
        if method not in views:
            raise MethodNotAllowed(allowed)
        return views[method](**arguments)

    # A redirect to the path with a slash would lack them, too.
    blueprint.add_url_rule(
        path,
        endpoint,
        dispatch,
        methods=_METHODS,
        strict_slashes=False,
        provide_automatic_options=False,
    )


def _nowhere(_rest: str) -> None:
    abort(404)


def _check_host(trusted_hosts: Iterable[str]) -> Callable[[], None]:
    """Return a function that refuses requests to other hosts.

    A site that makes its own name lead here (DNS rebinding) is a browser's same origin; only the
    name shows it.

    :raises ConfigError: *trusted_hosts* is one text
    """
    if isinstance(trusted_hosts, str):
        message = (
            f"waffle.admin(trusted_hosts={trusted_hosts!r}): give a list of hosts: "
            f"[{trusted_hosts!r}]."
        )
        raise ConfigError(message, value=trusted_hosts)
    hosts = list(trusted_hosts)

    def check() -> None:
        # The header itself: Flask refuses to name a host that it does not trust.
        if not host_is_trusted(request.environ.get("HTTP_HOST", ""), hosts):
            abort(400, "The pages are not served under this host name; see trusted_hosts.")

    return check


def _gate(state: Callable[[], State], authorize: Authorize) -> Callable[[], None]:
    """Return a function that refuses requests without permission, or that are too large."""

    def enter() -> None:
        if request.endpoint is not None and request.endpoint.endswith(".static"):
            return  # the package's files hold nothing of the application
        permission = as_permission(authorize(request))
        if permission is None:
            abort(403, "You have no permission to open this page.")
        g.waffle_viewer = Viewer(state(), permission)
        if not _is_api():
            check_secret_key()
        _check_size(len(g.waffle_viewer.inputs))

    return enter


def _check_size(setting_count: int) -> None:
    """Refuse a body that is larger than any form or JSON of these settings, before it is parsed."""
    if (request.content_length or 0) > api.MAX_BODY_BYTES:
        abort(413)
    request.max_form_memory_size = api.MAX_BODY_BYTES
    if request.mimetype == "application/x-www-form-urlencoded":
        fields = request.get_data(parse_form_data=False).count(b"&")
        if fields > _FIELDS_OF_A_SETTING * setting_count + _MOST_OTHER_FIELDS:
            abort(413)


def _is_api() -> bool:
    # The last part: the blueprint may be within others, of any name.
    return (request.endpoint or "").rpartition(".")[2].startswith("api_")


def _protect(response: Response) -> Response:
    """Add the headers of every answer."""
    response.headers.update(_HEADERS)
    if "public" not in response.headers.get("Cache-Control", ""):
        is_static = request.endpoint is not None and request.endpoint.endswith(".static")
        response.headers["Cache-Control"] = "no-cache" if is_static else "no-store"
    response.vary.update(("Cookie", "Authorization"))
    return response


def _refuse(error: HTTPException) -> HTTPException | Response:
    """Return an error as a page or as JSON."""
    if error.response is not None or error.code is None or error.code < _FIRST_ERROR:
        return error  # a redirect to a login page, say
    answer = api.problem(error) if _is_api() else _error_page(error)
    for key, value in error.get_headers():
        if key.lower() != "content-type":
            answer.headers.set(key, value)
    return answer


_FIRST_ERROR = 400


def _error_page(error: HTTPException) -> Response:
    body = render_template(
        "waffle_admin/error.html", error=error, viewer=g.get("waffle_viewer"), app_name=""
    )
    return make_response(body, error.code)


def _refuse_without_store(error: StoreUnavailable) -> HTTPException | Response:
    """Answer that the database does not; the error names its address without the password."""
    return _refuse(ServiceUnavailable(str(error)))


def _refuse_without_key(error: ConfigError) -> HTTPException | Response:
    """Answer what the application must configure before it can show a form."""
    logger.error("waffle: %s", error)
    return _refuse(InternalServerError(str(error)))


@cache
def _asset_version() -> str:
    """Return a text that changes whenever the static files do, for their URLs."""
    digest = hashlib.sha256()
    for path in sorted((Path(__file__).parent / "static").iterdir()):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
