"""The JSON interface: settings, history, rollback, status, and the document that describes it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import Any, TypeVar

from flask import Response, abort, request
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from werkzeug.exceptions import HTTPException

from uwsgi_waffle.errors import InvalidSetting, RevisionConflict, UnknownRevision, suggest
from uwsgi_waffle.ops.plain import change_json, host_json, json_text, plain
from uwsgi_waffle.ops.status import collect
from uwsgi_waffle.process.writes import Update
from uwsgi_waffle.sql.history import Change
from uwsgi_waffle.sql.store import Signature
from uwsgi_waffle.values.settings import MASK

from .bodies import HistoryQuery, Patch, Rollback
from .edits import FORBIDDEN_ROLLBACK, change, make_rollback, sql_snapshot
from .openapi import document
from .progress import progress_of
from .viewer import viewer

__all__ = [
    "get_document",
    "get_history",
    "get_settings",
    "get_status",
    "patch_settings",
    "post_rollback",
    "problem",
]

#: What If-Match holds: a revision, as ``"41"``, ``41`` or ``W/"41"``.
_ETAG = re.compile(r'(?:W/)?"(\d{1,18})"|(\d{1,18})')
#: Largest body that is read: every setting at once, as escaped as can be.
MAX_BODY_BYTES = 16 * 1024 * 1024
#: For how many unknown names a known one is suggested, and how long those may be: it is slow.
_MOST_SUGGESTIONS = 5
_MAX_NAME_LENGTH = 150

Body = TypeVar("Body", bound=BaseModel)


def _answer(found: object, status: int = 200, *, revision: int | None = None) -> Response:
    answer = Response(f"{json_text(found)}\n", status, mimetype="application/json")
    if revision is not None:
        answer.set_etag(str(revision))
    return answer


# -- read -----------------------------------------------------------------------------------------


def get_settings() -> Response:
    """Return every setting that may be seen: value, declaration, and who changed it last."""
    here = viewer()
    snapshot, declaration = here.snapshot, here.state.declaration
    defaults = declaration.defaults
    latest = here.state.history.latest()
    found = {
        "revision": snapshot.revision,
        "settings": {one.name: _masked(one.name, snapshot.values[one.name]) for one in here.inputs},
        "declarations": {
            one.name: {
                "description": one.description,
                "group": one.group,
                "default": _masked(one.name, getattr(defaults, one.name)),
                "is_default": not declaration.differ(
                    one.name, snapshot.values[one.name], getattr(defaults, one.name)
                ),
                "is_secret": one.is_secret,
                "may_edit": one.name in here.editable,
                "schema": dict(one.schema),
                "changed": _last_change(latest.get(one.name)),
            }
            for one in here.inputs
        },
    }
    return _answer(found, revision=snapshot.revision)


def _last_change(change: Change | None) -> dict[str, Any] | None:
    if change is None:
        return None
    known = change_json(change)
    return {key: known[key] for key in ("revision", "actor", "comment", "source", "at")}


def _masked(name: str, value: object) -> Any:
    """Return a value as JSON has it; a secret is a row of asterisks."""
    return MASK if name in viewer().state.declaration.secrets else plain(value)


def get_history() -> Response:
    """Return who changed what, when and why, newest first."""
    here = viewer()
    query = _query()
    names = here.permission.see
    if query.name is not None:
        if not here.permission.may_see(query.name):
            abort(403, f"You have no permission to see {query.name}.")
        names = [query.name]
    changes = here.state.history.timeline(query.limit, names=names, before=query.before)
    return _answer({"changes": [change_json(change) for change in changes]})


def _query() -> HistoryQuery:
    try:
        return HistoryQuery.model_validate(request.args.to_dict())
    except ValidationError as error:
        abort(_invalid(error.errors(include_url=False)))


def get_status() -> Response:
    """Return which process of which host serves which revision, and what is not as it should be."""
    here = viewer()
    status = collect(here.state)
    fleet = status.fleet
    found = {
        "revision": status.revision,
        "lineage": status.lineage,
        "fleet": progress_of(here, fleet.revision),
        "hosts": [host_json(fleet, host) for host in status.hosts],
        "problems": here.problems(status.problems),
    }
    return _answer(found)


def get_document() -> Response:
    """Return the OpenAPI document of this interface, made from the declared settings."""
    here = viewer()
    prefix = request.script_root + request.path.removesuffix("/api/openapi.json")
    return _answer(document(here.state.declaration, here.inputs, prefix))


# -- write ----------------------------------------------------------------------------------------


def patch_settings() -> Response:
    """Change some settings as one revision."""
    here = viewer()
    expected = _expected_revision()
    if "If-Match" not in request.headers:
        abort(428, 'Send the revision that you have seen: If-Match: "41", as in the ETag of GET.')
    body = _body(Patch)
    values = {**body.settings, **(body.model_extra or {})}
    resets = frozenset(body.reset)
    _check_names(values.keys() | resets)
    try:
        now = sql_snapshot(here.state)
        if expected is not None and expected != now.revision:
            raise RevisionConflict(expected=expected, actual=now.revision)  # noqa: TRY301  # as the writer does
        after = change(now, values, resets, here.state.declaration)
        done = here.state.writer.update(
            {name: getattr(after, name) for name in values.keys() - resets},
            Signature(here.permission.name, body.comment, "api"),
            resets=resets,
            expected_revision=expected,
        )
    except InvalidSetting as error:
        return _invalid(here.findings(error), values)
    except RevisionConflict as error:
        return _conflict(error, values, resets)
    return _done(done)


def _check_names(names: AbstractSet[str]) -> None:
    """Refuse settings that may not be changed; one that may not be seen counts as unknown."""
    here = viewer()
    if names and not here.editable:
        abort(403, "You have no permission to change settings.")
    seen = [one.name for one in here.inputs]
    unknown = sorted(names - set(seen))
    if unknown:
        findings = [
            {"type": "unknown_setting", "loc": (name,), "msg": f"There is no setting {name}."}
            for name in unknown
        ]
        for finding, name in zip(findings[:_MOST_SUGGESTIONS], unknown, strict=False):
            if len(name) <= _MAX_NAME_LENGTH:
                finding["msg"] = f"{finding['msg']}{suggest(name, seen)}"
        abort(_invalid(findings))
    forbidden = sorted(names - here.editable)
    if forbidden:
        abort(403, f"You have no permission to change {', '.join(forbidden)}.")


def post_rollback() -> Response:
    """Make a new revision equal to an earlier one."""
    here = viewer()
    expected = _expected_revision()
    body = _body(Rollback)
    if not here.editable:
        abort(403, "You have no permission to change settings.")
    try:
        done = make_rollback(here, body.revision, body.comment, "api", expected=expected)
    except UnknownRevision as error:
        abort(404, str(error))
    except InvalidSetting as error:
        if not here.may_change_all(error):
            abort(403, FORBIDDEN_ROLLBACK)
        return _invalid(here.findings(error))
    except RevisionConflict as error:
        return _conflict(error, {}, frozenset())
    return _done(done)


def _expected_revision() -> int | None:
    """Return the revision in If-Match, ``None`` for any."""
    given = request.headers.get("If-Match", "*").strip()
    if given == "*":
        return None
    match = _ETAG.fullmatch(given)
    if match is None:
        abort(400, 'If-Match must hold one revision, such as "41".')
    return int(match[1] or match[2])


def _body(model: type[Body]) -> Body:
    # A body in chunks does not say how long it is.
    is_chunked = request.content_length is None
    data = request.stream.read(MAX_BODY_BYTES + 1) if is_chunked else request.get_data()
    if len(data) > MAX_BODY_BYTES:
        abort(413)
    try:
        given = from_json(data, allow_inf_nan=False)
    except ValueError as error:
        message = f"The body is not JSON: {error}"
        abort(_invalid([{"type": "json_invalid", "loc": (), "msg": message}], status=400))
    try:
        return model.model_validate(given)
    except ValidationError as error:
        abort(_invalid(error.errors(include_url=False)))


def _done(done: Update) -> Response:
    may_see = viewer().permission.may_see
    found = {
        "revision": done.revision,
        "changes": {
            name: {"old": _masked(name, old), "new": _masked(name, new)}
            for name, (old, new) in done.changes.items()
            if may_see(name)
        },
        "announced": done.announced,
    }
    return _answer(found, revision=done.revision)


# -- refuse ---------------------------------------------------------------------------------------


def _conflict(error: RevisionConflict, values: dict[str, Any], resets: frozenset[str]) -> Response:
    """Return both versions of what was to be changed, and who has changed it meanwhile."""
    here = viewer()
    now, latest = sql_snapshot(here.state), here.state.history.latest()
    defaults = here.state.declaration.defaults
    found = {
        "error": "conflict",
        "message": str(error),
        "expected": error.expected,
        "actual": error.actual,
        "settings": {
            one.name: {
                "yours": _masked(one.name, values.get(one.name, getattr(defaults, one.name))),
                "present": _masked(one.name, now.values[one.name]),
                "changed": _last_change(latest.get(one.name)),
            }
            for one in here.inputs
            if one.name in values or one.name in resets
        },
    }
    return _answer(found, 409, revision=now.revision)


def _invalid(
    findings: Iterable[Any], values: dict[str, Any] | None = None, *, status: int = 422
) -> Response:
    """Return what is wrong in pydantic's words, with the values that were sent but no secret."""
    secrets = viewer().state.declaration.secrets
    errors = []
    for finding in findings:
        loc = [part if isinstance(part, int) else str(part) for part in finding.get("loc", ())]
        entry = {"type": finding["type"], "loc": loc, "msg": finding["msg"]}
        if values is not None and len(loc) == 1 and loc[0] in values and loc[0] not in secrets:
            entry["input"] = plain(values[str(loc[0])])
        errors.append(entry)
    message = "; ".join(entry["msg"] for entry in errors)
    return _answer({"error": "invalid", "message": message, "errors": errors}, status)


def problem(error: HTTPException) -> Response:
    """Return an error as JSON."""
    name = (error.name or "error").lower().replace(" ", "_")
    return _answer({"error": name, "message": error.description}, error.code or 500)
