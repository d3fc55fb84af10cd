"""The same as JSON: settings, history, rollback, status, and the document that describes it."""

from __future__ import annotations

import re
from collections.abc import Set as AbstractSet
from typing import Any

from flask import Response, abort, jsonify, make_response, request
from pydantic import ValidationError
from werkzeug.exceptions import HTTPException

from uwsgi_waffle.errors import InvalidSetting, RevisionConflict, UnknownRevision, suggest
from uwsgi_waffle.ops.status import collect
from uwsgi_waffle.process.writes import Update
from uwsgi_waffle.sql.history import Change
from uwsgi_waffle.sql.store import Signature
from uwsgi_waffle.values.settings import MASK

from .bodies import HistoryQuery, Patch, Rollback
from .edits import present
from .fields import to_plain
from .openapi import document
from .visit import visit
from .wave import as_json, wave

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


# -- read -----------------------------------------------------------------------------------------


def get_settings() -> Response:
    """Tell every setting that may be seen: value, default, description, and who changed it last."""
    here = visit()
    snapshot = here.snapshot
    latest = here.state.history.latest()
    answer = jsonify(
        revision=snapshot.revision,
        settings={one.name: _masked(one.name, snapshot.values[one.name]) for one in here.inputs},
        declarations={
            one.name: {
                "description": one.description,
                "group": one.group,
                "default": _masked(one.name, getattr(here.state.declaration.defaults, one.name)),
                "is_default": bool(
                    snapshot.values[one.name] == getattr(here.state.declaration.defaults, one.name)
                ),
                "is_secret": one.is_secret,
                "may_edit": one.name in here.editable,
                "schema": one.schema,
                "changed": _signature(latest.get(one.name)),
            }
            for one in here.inputs
        },
    )
    answer.set_etag(str(snapshot.revision))
    return answer


def _signature(change: Change | None) -> dict[str, Any] | None:
    if change is None:
        return None
    return {
        "revision": change.revision,
        "actor": change.actor,
        "comment": change.comment,
        "source": change.source,
        "at": change.at.isoformat(),
    }


def _masked(name: str, value: object) -> Any:
    """Return a value as JSON has it; a secret is a row of asterisks."""
    return MASK if name in visit().state.declaration.secrets else to_plain(value)


def get_history() -> Response:
    """Tell who changed what, when and why, newest first."""
    here = visit()
    query = _query()
    see = here.permission.see
    if query.name is not None:
        if not here.permission.may_see(query.name):
            abort(403, f"You may not see {query.name}.")
        see = [query.name]
    changes = here.state.history.timeline(query.limit, names=see, before=query.before)
    return jsonify(
        changes=[
            {
                "revision": change.revision,
                "name": change.name,
                "old": _masked(change.name, change.old),
                "new": _masked(change.name, change.new),
                "is_default": change.is_default,
                "actor": change.actor,
                "comment": change.comment,
                "source": change.source,
                "at": change.at.isoformat(),
            }
            for change in changes
        ]
    )


def _query() -> HistoryQuery:
    try:
        return HistoryQuery.model_validate(request.args.to_dict())
    except ValidationError as error:
        abort(make_response(_invalid(error.errors(include_url=False), {}), 422))


def get_status() -> Response:
    """Tell which process of which host has which revision, and what is not as it should be."""
    here = visit()
    status = collect(here.state)
    fleet = wave(here.state, status.fleet.revision)
    return jsonify(
        revision=status.revision,
        lineage=status.lineage,
        fleet=as_json(fleet),
        hosts=[
            {
                "id": host.id,
                "name": host.name,
                "revision": host.revision,
                "is_silent": host.is_silent,
                "reported_seconds_ago": host.reported_seconds_ago,
                "listener": {"state": host.listener.state, "error": host.listener.error},
            }
            for host in status.hosts
        ],
        problems=here.problems(status.problems),
    )


def get_document() -> Response:
    """Return the OpenAPI document of this interface, made from the declared settings."""
    here = visit()
    return jsonify(document(here.state.declaration, here.inputs, request.script_root + _prefix()))


def _prefix() -> str:
    """Return where this blueprint is mounted."""
    return request.path.removesuffix("/api/openapi.json")


# -- write ----------------------------------------------------------------------------------------


def patch_settings() -> Response:
    """Change some settings as one revision."""
    here = visit()
    expected = _expected_revision()
    if expected is None:
        abort(428, 'Say which revision you have seen: If-Match: "41", as in the ETag of GET.')
    body = _body(Patch)
    extra = body.model_extra or {}
    values = {**body.settings, **extra}
    resets = frozenset(body.reset)
    refusal = _name_refusal(values.keys() | resets)
    if refusal is not None:
        return refusal
    signature = Signature(here.permission.name, body.comment, "api")
    try:
        done = here.state.writer.update(
            {name: value for name, value in values.items() if name not in resets},
            signature,
            resets=resets,
            expected_revision=expected if expected >= 0 else None,
        )
    except InvalidSetting as error:
        return make_response(_invalid(error.errors, values), 422)
    except RevisionConflict as error:
        return _conflict(error, values, resets)
    return _done(done)


def _name_refusal(names: AbstractSet[str]) -> Response | None:
    """Return why settings of these names cannot be changed; what is hidden counts as unknown."""
    here = visit()
    seen = [one.name for one in here.inputs]
    unknown = sorted(names - set(seen))
    if unknown:
        findings = [
            {
                "type": "unknown_setting",
                "loc": (name,),
                "msg": f"There is no setting {name}.{suggest(name, seen)}",
            }
            for name in unknown
        ]
        return make_response(_invalid(findings, {}), 422)
    forbidden = sorted(names - here.editable)
    if forbidden:
        abort(403, f"You may not change {', '.join(forbidden)}.")
    return None


def post_rollback() -> Response:
    """Make a new revision equal to an earlier one."""
    here = visit()
    expected = _expected_revision()
    body = _body(Rollback)
    now = present(here.state)
    writer = here.state.writer
    try:
        if expected is not None and expected >= 0 and expected != now.revision:
            raise RevisionConflict(expected=expected, actual=now.revision)  # noqa: TRY301
        then = writer.settings_at(body.revision)
        changed = [n for n, value in now.values.items() if value != getattr(then, n)]
        if any(name not in here.editable for name in changed):
            abort(403, "Going back there would change settings that you may not change.")
        done = writer.rollback(
            body.revision,
            Signature(here.permission.name, body.comment, "api"),
            expected_revision=now.revision,
        )
    except UnknownRevision as error:
        abort(404, str(error))
    except InvalidSetting as error:
        return make_response(_invalid(error.errors, {}), 422)
    except RevisionConflict as error:
        return _conflict(error, {}, frozenset())
    return _done(done)


def _expected_revision() -> int | None:
    """Return the revision in If-Match; -1 for any; ``None`` without the header."""
    given = request.headers.get("If-Match")
    if given is None:
        return None
    if given.strip() == "*":
        return -1
    match = _ETAG.fullmatch(given.strip())
    if match is None:
        abort(400, 'If-Match must hold one revision, such as "41".')
    return int(match[1] or match[2])


def _body(model: Any) -> Any:
    """Return the body, or refuse it."""
    data = request.get_data()
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        findings = error.errors(include_url=False)
        status = 400 if findings[0]["type"] == "json_invalid" else 422
        abort(make_response(_invalid(findings, {}), status))


def _done(done: Update) -> Response:
    """Tell what a write did."""
    may_see = visit().permission.may_see
    answer = jsonify(
        revision=done.revision,
        changes={
            name: {"old": _masked(name, old), "new": _masked(name, new)}
            for name, (old, new) in done.changes.items()
            if may_see(name)
        },
        announced=done.announced,
    )
    answer.set_etag(str(done.revision))
    return answer


# -- refuse ---------------------------------------------------------------------------------------


def _conflict(error: RevisionConflict, values: dict[str, Any], resets: frozenset[str]) -> Response:
    """Tell both versions of what was to be changed, and who has changed it meanwhile."""
    here = visit()
    now, latest = present(here.state), here.state.history.latest()
    known = [one for one in here.inputs if one.name in values or one.name in resets]
    defaults = here.state.declaration.defaults
    answer = jsonify(
        error="conflict",
        message=str(error),
        expected=error.expected,
        actual=error.actual,
        settings={
            one.name: {
                "yours": _masked(one.name, values.get(one.name, getattr(defaults, one.name))),
                "present": _masked(one.name, now.values[one.name]),
                "changed": _signature(latest.get(one.name)),
            }
            for one in known
        },
    )
    answer.status_code = 409
    answer.set_etag(str(now.revision))
    return answer


def _invalid(findings: Any, values: dict[str, Any]) -> Response:
    """Tell what is wrong in pydantic's words; of what was given, nothing that is a secret."""
    secrets = visit().state.declaration.secrets
    errors = []
    for finding in findings:
        loc = [part if isinstance(part, int) else str(part) for part in finding.get("loc", ())]
        entry = {"type": finding["type"], "loc": loc, "msg": finding["msg"]}
        if len(loc) == 1 and loc[0] in values and loc[0] not in secrets:
            entry["input"] = to_plain(values[str(loc[0])])
        errors.append(entry)
    return jsonify(error="invalid", message="; ".join(e["msg"] for e in errors), errors=errors)


def problem(error: HTTPException) -> Response:
    """Return an error as JSON."""
    name = (error.name or "error").lower().replace(" ", "_")
    answer = jsonify(error=name, message=error.description)
    answer.status_code = error.code or 500
    return answer
