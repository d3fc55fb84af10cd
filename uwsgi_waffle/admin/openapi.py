"""The OpenAPI document of the JSON interface, made from the declared settings and the bodies."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

from pydantic import BaseModel

from uwsgi_waffle import __version__
from uwsgi_waffle.values.settings import Declaration

from .bodies import HistoryQuery, Patch, Rollback
from .fields import Input, schemas_of

__all__ = ["document"]

_REVISION = {"type": "integer", "minimum": 0}
_TEXT_OR_NULL = {"type": ["string", "null"]}
_IF_MATCH = {
    "name": "If-Match",
    "in": "header",
    "description": "The revision that you have seen, as in the ETag; * for any.",
    "schema": {"type": "string", "pattern": r'^(\*|"[0-9]{1,18}")$'},
}
_ETAG = {"ETag": {"description": "The revision.", "schema": {"type": "string"}}}
#: What may be answered to anything.
_REFUSALS = {
    400: ("The request cannot be read.", "Problem"),
    403: ("You may not do that, or the request comes from another site.", "Problem"),
    503: ("The database does not answer.", "Problem"),
}


def document(declaration: Declaration, inputs: tuple[Input, ...], prefix: str) -> dict[str, Any]:
    """Return the document, of the settings that whoever asks may see.

    :param prefix: where the blueprint is mounted
    """
    whole = deepcopy(schemas_of(declaration))
    properties = {one.name: deepcopy(dict(one.schema)) for one in inputs}
    definitions = whole.get("$defs", {})
    schemas = {**_schemas(inputs), **definitions, "Settings": _object(properties)}
    schemas["Patch"] = _patch(properties)
    schemas["Rollback"] = _of_model(Rollback)
    found = {
        "openapi": "3.1.0",
        "info": {
            "title": "Settings",
            "version": __version__,
            "description": "Live settings: see, change, roll back, and watch each process follow.",
        },
        "servers": [{"url": f"{prefix}/api"}],
        "paths": _paths(),
        "components": {"schemas": schemas},
    }
    # pydantic keeps definitions elsewhere than OpenAPI does.
    moved: dict[str, Any] = json.loads(
        json.dumps(found).replace('"#/$defs/', '"#/components/schemas/')
    )
    return moved


def _paths() -> dict[str, Any]:
    """Return what is answered where."""
    return {
        "/settings": {
            "get": _operation("getSettings", "See the settings.", "SettingsAnswer", headers=_ETAG),
            "patch": _operation(
                "patchSettings",
                "Change some settings, all or none, as one revision.",
                "Done",
                headers=_ETAG,
                parameters=[{**_IF_MATCH, "required": True}],
                body="Patch",
                refusals={
                    409: ("Somebody else was quicker; both versions.", "Conflict"),
                    415: ("The body is not JSON.", "Problem"),
                    422: ("A value is refused, in pydantic's words.", "Invalid"),
                    428: ("If-Match is missing.", "Problem"),
                },
            ),
        },
        "/history": {
            "get": _operation(
                "getHistory",
                "See who changed what, when and why, newest first.",
                "HistoryAnswer",
                parameters=_query_parameters(HistoryQuery),
                refusals={422: ("The query is refused.", "Invalid")},
            )
        },
        "/rollback": {
            "post": _operation(
                "rollBack",
                "Make a new revision equal to an earlier one.",
                "Done",
                headers=_ETAG,
                parameters=[{**_IF_MATCH, "required": False}],
                body="Rollback",
                refusals={
                    404: ("The history does not reach that revision.", "Problem"),
                    409: ("Somebody else was quicker.", "Conflict"),
                    415: ("The body is not JSON.", "Problem"),
                    422: ("What was right then is refused today.", "Invalid"),
                },
            )
        },
        "/status": {
            "get": _operation("getStatus", "See every process of every host.", "StatusAnswer")
        },
    }


def _operation(  # noqa: PLR0913  # each is one part of an operation
    name: str,
    summary: str,
    answer: str,
    *,
    parameters: list[dict[str, Any]] | None = None,
    body: str | None = None,
    headers: dict[str, Any] | None = None,
    refusals: dict[int, tuple[str, str]] | None = None,
) -> dict[str, Any]:
    """Return one operation."""
    responses: dict[str, Any] = {"200": {"description": "Done.", "content": _json(answer)}}
    if headers:
        responses["200"]["headers"] = headers
    for code, (description, schema) in sorted({**_REFUSALS, **(refusals or {})}.items()):
        responses[str(code)] = {"description": description, "content": _json(schema)}
    found: dict[str, Any] = {"operationId": name, "summary": summary, "responses": responses}
    if parameters:
        found["parameters"] = parameters
    if body:
        found["requestBody"] = {"required": True, "content": _json(body)}
    return found


def _json(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def _patch(properties: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of the body of PATCH: settings stand in ``settings``, or beside it."""
    schema = _of_model(Patch)
    schema["properties"]["settings"] = {
        **_object(properties),
        "description": schema["properties"]["settings"]["description"],
    }
    schema["properties"]["reset"]["items"] = {"enum": list(properties)} if properties else False
    schema["properties"].update(properties)
    schema["additionalProperties"] = False
    return schema


def _of_model(model: type[BaseModel]) -> dict[str, Any]:
    return model.model_json_schema()


def _query_parameters(model: type[BaseModel]) -> list[dict[str, Any]]:
    """Return the parameters of a query; one that may be left out is never ``null``."""
    parameters = []
    for name, given in model.model_json_schema()["properties"].items():
        schema = dict(given)
        options = [one for one in schema.pop("anyOf", []) if one.get("type") != "null"]
        schema.pop("default", None)
        description = schema.pop("description", "")
        for option in options:
            schema.update(option)
        parameters.append(
            {"name": name, "in": "query", "description": description, "schema": schema}
        )
    return parameters


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _exactly(**properties: Any) -> dict[str, Any]:
    """Return the schema of an object that has all of these, and nothing else."""
    return {**_object(properties), "required": list(properties)}


def _schemas(inputs: tuple[Input, ...]) -> dict[str, Any]:
    """Return the schemas of what is answered."""
    names = {"enum": [one.name for one in inputs]} if inputs else False
    by_name = {"type": "object", "propertyNames": names}
    changed = _exactly(
        revision=_REVISION,
        actor=_TEXT_OR_NULL,
        comment=_TEXT_OR_NULL,
        source={"type": "string"},
        at={"type": "string", "format": "date-time"},
    )
    changed_or_null = {"anyOf": [changed, {"type": "null"}]}
    boolean, text, anything = {"type": "boolean"}, {"type": "string"}, True
    return {
        "SettingsAnswer": _exactly(
            revision=_REVISION,
            settings={**by_name, "description": "Name -> value; secrets are masked."},
            declarations={
                **by_name,
                "additionalProperties": _exactly(
                    description=text,
                    group=text,
                    default=anything,
                    is_default=boolean,
                    is_secret=boolean,
                    may_edit=boolean,
                    schema={"type": "object"},
                    changed=changed_or_null,
                ),
            },
        ),
        "HistoryAnswer": _exactly(
            changes={
                "type": "array",
                "items": _exactly(
                    **changed["properties"],
                    name=text,
                    old=anything,
                    new=anything,
                    is_default=boolean,
                ),
            }
        ),
        "Done": _exactly(
            revision=_REVISION,
            changes={
                "type": "object",
                "additionalProperties": _exactly(old=anything, new=anything),
            },
            announced=boolean,
        ),
        "StatusAnswer": _exactly(
            revision={"type": ["integer", "null"]},
            lineage=_TEXT_OR_NULL,
            fleet={"type": "object"},
            hosts={"type": "array", "items": {"type": "object"}},
            problems={"type": "array", "items": text},
        ),
        "Problem": {**_object({"error": text, "message": text}), "additionalProperties": True},
        "Conflict": _exactly(
            error={"const": "conflict"},
            message=text,
            expected=_REVISION,
            actual=_REVISION,
            settings={
                "type": "object",
                "additionalProperties": _exactly(
                    yours=anything, present=anything, changed=changed_or_null
                ),
            },
        ),
        "Invalid": _exactly(
            error={"const": "invalid"},
            message=text,
            errors={
                "type": "array",
                "items": {**_object({}), "additionalProperties": True, "required": ["loc", "msg"]},
            },
        ),
    }
