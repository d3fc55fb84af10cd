"""The one JSON form of a value: equal values have equal texts, in every process.

pydantic writes a value as it was made: a set in the order in which a process goes through it, a
decimal with its trailing zeros, a moment in the zone that it was given in. Here such values get one
form, at any depth. What a serializer of the application writes in its own way is left alone.
"""

from __future__ import annotations

import dataclasses
import json
from collections import deque
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from datetime import date, datetime, time, timedelta, timezone
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal
from typing import Any
from uuid import UUID

from pydantic import BaseModel, RootModel, Secret, SecretBytes, SecretStr
from pydantic_core import to_jsonable_python

__all__ = ["FIXED", "SCALARS", "SECRET_TYPES", "plain_json"]

#: pydantic's types that show asterisks, except by ``get_secret_value``.
SECRET_TYPES = (Secret, SecretBytes, SecretStr)

#: Types of which equal values have one form already.
SCALARS = frozenset((str, int, bool, type(None)))
#: Types of values that nothing can change in place, so that two snapshots may share one; equal ones
#: of the same type are the same value.
FIXED = SCALARS | {
    *(float, bytes, Decimal, date, datetime, time, timedelta, UUID),
    *(SecretStr, SecretBytes),
}
_CONTAINERS = (list, tuple, deque, AbstractSet)
#: Most zeros that a decimal is written with; with more it has an exponent.
_MOST_ZEROS = 40
_SOME_DAY = date(2000, 1, 1)


def plain_json(value: object, *, reveal: bool = True) -> Any:
    """Return a value as JSON has it: ``dict``, ``list``, ``str``, numbers, ``bool`` and ``None``.

    :param reveal: show what pydantic's secret types hide
    :raises ValueError: JSON has no form for it, or it holds a secret that is not to be revealed
    """
    if type(value) in SCALARS:
        return value
    return _unified(value, to_jsonable_python(value), reveal=reveal)


def _unified(value: object, plain: Any, *, reveal: bool) -> Any:
    """Return *plain*, which pydantic made of *value*, in the one form of values equal to it."""
    if type(value) in SCALARS:
        return plain
    if isinstance(value, RootModel):
        return _unified(value.root, plain, reveal=reveal)
    if isinstance(plain, dict):
        return _unified_dict(value, plain, reveal=reveal)
    if isinstance(value, _CONTAINERS) and isinstance(plain, list) and len(value) == len(plain):
        pairs = zip(value, plain, strict=True)
        items = [_unified(part, item, reveal=reveal) for part, item in pairs]
        return sorted(items, key=_text) if isinstance(value, AbstractSet) else items
    form = _one_form(value, reveal=reveal)
    is_ours = form is not value and plain == to_jsonable_python(value)
    if is_ours and isinstance(value, SECRET_TYPES):
        return plain_json(form)
    return to_jsonable_python(form) if is_ours else plain


def _unified_dict(value: object, plain: dict[str, Any], *, reveal: bool) -> dict[str, Any]:
    """Return the JSON of a mapping, a model or a dataclass in its one form."""
    if isinstance(value, Mapping) and len(value) == len(plain):
        return {
            _key(key, name, reveal=reveal): _unified(part, plain[name], reveal=reveal)
            for (key, part), name in zip(value.items(), plain, strict=True)
        }
    fields = {key: part for key, part in _fields(value) if key in plain}
    unified = {key: _unified(part, plain[key], reveal=reveal) for key, part in fields.items()}
    return {**plain, **unified}


def _key(key: object, name: str, *, reveal: bool) -> str:
    """Return what stands for a key of a mapping; pydantic made it *name*."""
    form = _one_form(key, reveal=reveal)
    return name if form is key else str(next(iter(to_jsonable_python({form: None}))))


def _fields(value: object) -> Iterator[tuple[str, object]]:
    """Yield what a model or a dataclass holds, by its names in JSON."""
    declared: Mapping[str, Any] = {}
    found: Mapping[str, object] = {}
    if isinstance(value, BaseModel):
        declared = type(value).model_fields
        found = {**value.__dict__, **(value.__pydantic_extra__ or {})}
    elif dataclasses.is_dataclass(value):
        declared = getattr(value, "__pydantic_fields__", {})
        found = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    for name, part in found.items():
        yield (name in declared and declared[name].serialization_alias) or name, part


def _one_form(value: object, *, reveal: bool) -> object:
    """Return what stands for all values equal to this one; the value itself where there is none.

    :raises ValueError: it is a secret that is not to be revealed
    """
    if isinstance(value, SECRET_TYPES):
        if not reveal:
            message = (
                "it holds a secret, which its type does not show; declare the setting with "
                'json_schema_extra={"secret": True}'
            )
            raise ValueError(message)
        return value.get_secret_value()
    if isinstance(value, float) and value == 0:
        return 0.0
    if isinstance(value, Decimal) and value.is_finite():
        return _decimal(value)
    if isinstance(value, datetime) and value.utcoffset() is not None:
        with suppress(OverflowError):  # a moment at either end of the calendar
            return value.astimezone(timezone.utc)
    if isinstance(value, time) and value.utcoffset() is not None:
        moment = datetime.combine(_SOME_DAY, value).astimezone(timezone.utc)
        if moment.date() == _SOME_DAY:  # else it is another time of day in UTC
            return moment.timetz()
    return value


def _decimal(value: Decimal) -> str:
    """Return a decimal without trailing zeros, and with an exponent only where it is huge."""
    if not value:
        return "0"
    exact = Context(prec=len(value.as_tuple().digits), Emin=MIN_EMIN, Emax=MAX_EMAX)
    short = value.normalize(exact)
    return f"{short:f}" if abs(short.adjusted()) <= _MOST_ZEROS else str(short)


def _text(plain: object) -> str:
    return json.dumps(plain, sort_keys=True)
