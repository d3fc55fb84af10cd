"""The OpenAPI document of the JSON interface, made from the settings, bodies and answers."""

from __future__ import annotations

import json
import re
from copy import deepcopy
from typing import Any

from pydantic import BaseModel

from uwsgi_waffle import __version__
from uwsgi_waffle.values.declaration import Declaration

from .answers import answer_schemas
from .bodies import HistoryQuery, Patch, Rollback
from .fields import Input, schemas_of

__all__ = ["document"]

_IF_MATCH = {
    "name": "If-Match",
    "in": "header",
    "description": "The revision that you have seen, as in the ETag; * for any.",
    "schema": {"type": "string", "pattern": r'^(\*|"[0-9]{1,18}")$'},
}
#: Refusals of a body, beside those.
_BODY_REFUSALS = {
    413: ("The body is too large.", "Problem"),
    415: ("The content type is not JSON.", "Problem"),
}
_REFERENCE = re.compile(r'"#/\$defs/([^"]+)"')
_ETAG = {"ETag": {"description": "The revision.", "schema": {"type": "string"}}}
#: Refusals that any operation may answer.
_REFUSALS = {
    400: ("The request cannot be read.", "Problem"),
    403: ("You have no permission, or the request comes from another site.", "Problem"),
    503: ("The database does not answer.", "Problem"),
}


def document(declaration: Declaration, inputs: tuple[Input, ...], prefix: str) -> dict[str, Any]:
    """Return the document, of the settings that the viewer may see.

    :param prefix: where the blueprint is mounted
    """
    properties = {one.name: deepcopy(dict(one.schema)) for one in inputs}
    definitions = _used(properties, schemas_of(declaration).get("$defs", {}))
    schemas = {**_answers(list(properties)), **definitions, "Settings": _object(properties)}
    schemas["Patch"] = _patch(properties)
    schemas["Rollback"] = Rollback.model_json_schema()
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


def _used(schema: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the definitions that a schema refers to, directly or through others."""
    found: dict[str, Any] = {}
    texts = [json.dumps(schema)]
    while texts:
        for name in _REFERENCE.findall(texts.pop()):
            if name in definitions and name not in found:
                found[name] = deepcopy(definitions[name])
                texts.append(json.dumps(found[name]))
    return found


def _paths() -> dict[str, Any]:
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
                    409: ("Another change came first; both versions.", "Conflict"),
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
                    409: ("Another change came first.", "Conflict"),
                    422: ("A value of that revision is refused today.", "Invalid"),
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
    responses: dict[str, Any] = {"200": {"description": "Done.", "content": _json(answer)}}
    if headers:
        responses["200"]["headers"] = headers
    known = {**_REFUSALS, **(_BODY_REFUSALS if body else {}), **(refusals or {})}
    for code, (description, schema) in sorted(known.items()):
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
    """Return the schema of the body of PATCH: settings are in ``settings``, or beside it."""
    schema = Patch.model_json_schema()
    schema["properties"]["settings"] = {
        **_object(properties),
        "description": schema["properties"]["settings"]["description"],
    }
    schema["properties"]["reset"]["items"] = _one_of(list(properties))
    schema["properties"].update(properties)
    schema["additionalProperties"] = False
    return schema


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


def _answers(names: list[str]) -> dict[str, Any]:
    """Return the schemas of the answers to a viewer who may see the settings of these names."""
    schemas = answer_schemas()
    for key in ("settings", "declarations"):
        schemas["SettingsAnswer"]["properties"][key]["propertyNames"] = _one_of(names)
    return schemas


def _one_of(names: list[str]) -> Any:
    """Return the schema of one of these names; that of nothing where there are none."""
    return {"enum": names} if names else False
