"""Settings as inputs of a form: the kind, the text for a value, and the value of a text."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, get_args
from weakref import WeakKeyDictionary

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode
from pydantic_core import from_json

from uwsgi_waffle.ops.plain import plain
from uwsgi_waffle.values.declaration import Declaration
from uwsgi_waffle.values.settings import MASK

__all__ = ["Choice", "Input", "inputs_of", "schemas_of", "shown"]

#: How many settings must begin with the same word to be a group.
_GROUP_SIZE = 3
_NO_GROUP = "General"
_STRINGS = {"date": "date", "time": "time", "date-time": "datetime-local"}


@dataclass(frozen=True, slots=True)
class Choice:
    """One option of a select: the text in the form, and the one that is shown."""

    text: str
    label: str


@dataclass(frozen=True, slots=True)
class Input:
    """How a form asks for one setting.

    :ivar kind: ``checkbox``, ``number``, ``select``, ``text``, ``json``, ``date``, ``time`` or
        ``datetime-local``
    :ivar is_optional: an empty text is ``None``
    :ivar is_decimal: a number has more digits than a float keeps
    :ivar attributes: bounds of the value, as attributes of the element
    :ivar schema: the JSON schema of the setting, without defaults
    :ivar default: the default, as it is shown; ``""`` for a secret
    """

    name: str
    kind: str
    description: str
    group: str
    is_secret: bool
    is_optional: bool
    is_decimal: bool
    choices: tuple[Choice, ...]
    attributes: Mapping[str, str]
    schema: Mapping[str, Any] = field(repr=False)
    default: str = field(repr=False)

    def text(self, value: object) -> str:
        """Return what a form holds for a value; ``""`` for a secret."""
        if self.is_secret:
            return ""
        found = plain(value)
        if self.kind == "select":
            return _dump(found)
        if found is None:
            return ""
        if self.kind == "json":
            return json.dumps(found, indent=2, ensure_ascii=False)
        if not isinstance(found, str):
            return _dump(found)
        # Browsers leave out seconds that are zero.
        is_clock = self.kind in ("time", "datetime-local")
        return _NO_SECONDS.sub("", found) if is_clock else normalise(found)

    def value(self, text: str) -> object:
        """Return the value of a text, as far as pydantic does not convert it.

        :raises ValueError: it must be JSON and is not; names the place
        """
        if self.is_optional and not text.strip():
            return None
        if self.kind == "number":
            return text if self.is_decimal else _number(text)
        if self.kind == "checkbox":
            return text == "true"
        if self.kind in ("json", "select"):
            return _load(text)
        return text

    def html_type(self, text: str) -> str:
        """Return the type of input for a text; browsers lack one for instants with a zone."""
        if self.kind in ("time", "datetime-local") and _has_zone(text):
            return "text"
        if self.kind == "text" and ("\n" in text or len(text) > _LONG_TEXT):
            return "textarea"
        return "textarea" if self.kind == "json" else self.kind


_NO_SECONDS = re.compile(r"(?<=\d\d:\d\d):00$")
#: Length of a text past which it gets more than one line.
_LONG_TEXT = 100


def normalise(text: str) -> str:
    """Return a text as a browser sends it, with the ends of lines that Python has."""
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "\ufffd")


def shown(value: object, *, is_secret: bool = False) -> str:
    """Return a value as it is shown to people."""
    if is_secret:
        return MASK
    found = plain(value)
    if found is None:
        return "not set"
    if isinstance(found, bool):
        return "yes" if found else "no"
    if isinstance(found, str):
        return found or "(empty)"
    text = json.dumps(found, ensure_ascii=False)
    return text if len(text) <= _LONG_TEXT else json.dumps(found, indent=2, ensure_ascii=False)


class _Lenient(GenerateJsonSchema):
    """Makes a schema of everything; a type that JSON Schema cannot express may be anything."""

    ignored_warning_kinds = {"non-serializable-default", "skipped-choice"}  # noqa: RUF012  # as there

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> dict[str, Any]:
        """Return the schema of a type that JSON Schema cannot express."""
        del schema, error_info
        return {}

    def default_schema(self, schema: Any) -> dict[str, Any]:
        """Leave defaults out: a secret's must not be seen."""
        return self.generate_inner(schema["schema"])


_schemas: WeakKeyDictionary[Declaration, dict[str, Any]] = WeakKeyDictionary()
_inputs: WeakKeyDictionary[Declaration, tuple[Input, ...]] = WeakKeyDictionary()


def schemas_of(declaration: Declaration) -> dict[str, Any]:
    """Return the JSON schema of the settings as they are given, without defaults; made once."""
    if declaration not in _schemas:
        mode: JsonSchemaMode = "validation"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _schemas[declaration] = TypeAdapter(declaration.model).json_schema(
                by_alias=False, schema_generator=_Lenient, mode=mode
            )
    return _schemas[declaration]


def inputs_of(declaration: Declaration) -> tuple[Input, ...]:
    """Return the inputs of an application's settings, in order of declaration; made once."""
    if declaration not in _inputs:
        schema = schemas_of(declaration)
        groups = _groups(declaration)
        _inputs[declaration] = tuple(
            _input(declaration, name, schema, groups[name]) for name in declaration.names
        )
    return _inputs[declaration]


def _input(declaration: Declaration, name: str, schema: dict[str, Any], group: str) -> Input:
    declared = declaration.model.model_fields[name]
    whole = schema.get("properties", {}).get(name, {})
    inner, is_optional = _without_null(_resolved(whole, schema), schema)
    kind = _kind(inner)
    annotations = (declared.annotation, *get_args(declared.annotation))
    is_decimal = Decimal in annotations
    if is_decimal:
        kind = "number"
    choices = _choices(inner, is_optional=is_optional)
    if kind == "checkbox" and is_optional:
        options = (("true", "yes"), ("false", "no"), ("null", "not set"))
        kind, choices = "select", tuple(Choice(*option) for option in options)
    is_secret = name in declaration.secrets
    return Input(
        name=name,
        kind=kind,
        description=declared.description or "",
        group=group,
        is_secret=is_secret,
        is_optional=is_optional,
        is_decimal=is_decimal,
        choices=choices,
        attributes=_attributes(inner, kind),
        schema=whole,
        default="" if is_secret else shown(getattr(declaration.defaults, name)),
    )


def _groups(declaration: Declaration) -> dict[str, str]:
    """Return the group of each setting: declared, or the first word of enough names."""
    words = [name.partition("_")[0] for name in declaration.names]
    groups = {}
    for name, word in zip(declaration.names, words, strict=True):
        extra = declaration.model.model_fields[name].json_schema_extra
        declared = extra.get("group") if isinstance(extra, dict) else None
        if isinstance(declared, str) and declared:
            groups[name] = declared
        elif "_" in name and words.count(word) >= _GROUP_SIZE:
            groups[name] = word.title()
        else:
            groups[name] = _NO_GROUP
    return groups


def _resolved(schema: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    """Return a schema with its reference followed."""
    reference = schema.get("$ref")
    if reference is None and len(schema.get("allOf", ())) == 1:
        reference = schema["allOf"][0].get("$ref")
    if not isinstance(reference, str):
        return schema
    found: dict[str, Any] = root.get("$defs", {}).get(reference.rpartition("/")[2], {})
    return {**found, **{key: value for key, value in schema.items() if key != "$ref"}}


def _without_null(schema: dict[str, Any], root: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """Return a schema without its ``null``, and whether it had one."""
    options = schema.get("anyOf", [])
    others = [option for option in options if option.get("type") != "null"]
    if len(others) == len(options):
        return schema, False
    if len(others) == 1:
        return _resolved(others[0], root), True
    return {**schema, "anyOf": others}, True


def _kind(schema: dict[str, Any]) -> str:
    if "enum" in schema or "const" in schema:
        return "select"
    kind = schema.get("type")
    if kind == "string":
        return _STRINGS.get(schema.get("format", ""), "text")
    return {"boolean": "checkbox", "integer": "number", "number": "number"}.get(str(kind), "json")


def _choices(schema: dict[str, Any], *, is_optional: bool) -> tuple[Choice, ...]:
    values = schema.get("enum", [schema["const"]] if "const" in schema else [])
    choices = [Choice(_dump(value), shown(value)) for value in values]
    if choices and is_optional and None not in values:
        choices.append(Choice("null", "not set"))
    return tuple(choices)


def _attributes(schema: dict[str, Any], kind: str) -> dict[str, str]:
    """Return the bounds that a browser understands."""
    if kind == "text":
        known = {"maxlength": "maxLength", "minlength": "minLength"}
    elif kind == "number":
        known = {"min": "minimum", "max": "maximum"}
    else:
        return {}
    found = {key: _dump(schema[source]) for key, source in known.items() if source in schema}
    if kind == "number":
        is_whole = schema.get("type") == "integer"
        if is_whole and "exclusiveMinimum" in schema:
            found["min"] = str(int(schema["exclusiveMinimum"]) + 1)
        if is_whole and "exclusiveMaximum" in schema:
            found["max"] = str(int(schema["exclusiveMaximum"]) - 1)
        found["step"] = _dump(schema.get("multipleOf", 1)) if is_whole else "any"
    return found


def _dump(found: object) -> str:
    return json.dumps(found, ensure_ascii=False)


def _load(text: str) -> object:
    """Return the value of a JSON text.

    :raises ValueError: it is not JSON; names the place
    """
    try:
        return from_json(text, allow_inf_nan=False)
    except ValueError as error:
        message = f"This is not JSON: {error}"
        raise ValueError(message) from None


def _number(text: str) -> object:
    """Return a number, or the text as it is, which pydantic then refuses."""
    try:
        found = from_json(text, allow_inf_nan=False)
    except ValueError:
        return text
    return found if type(found) in (int, float) else text


def _has_zone(text: str) -> bool:
    clock = text.partition("T")[2] or text
    return clock.endswith("Z") or "+" in clock or "-" in clock.partition(":")[2]
