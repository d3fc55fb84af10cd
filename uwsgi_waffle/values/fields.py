"""Validating one setting by itself, where that gives what validating all of them would.

It does not where a validator may look at other settings: one of the whole model, or one that takes
pydantic's ``info``, in whose ``data`` they are.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic_core import SchemaValidator

from .settings import WaffleSettings

__all__ = ["Fields"]

#: More settings at once than one in so many are validated faster as a whole.
_ONE_IN = 4
#: So many at once are validated one by one, however few settings there are.
_ALWAYS = 16
#: What of a schema is the application's own, or is about writing.
_NO_SCHEMA = frozenset({"default", "metadata", "serialization", "expected", "members"})


class Fields:
    """The settings of a declaration, each with a validator of its own, made when it is needed."""

    def __init__(self, model: type[WaffleSettings]) -> None:
        """Find out whether settings can be validated one by one."""
        self._validators: dict[str, SchemaValidator] = {}
        schema: Any = model.__pydantic_core_schema__
        self._definitions = []
        if schema["type"] == "definitions":
            self._definitions, schema = schema["definitions"], schema["schema"]
        self._config = schema.get("config")
        self._schemas: Mapping[str, Any] = {}
        is_plain = schema["type"] == "model" and schema["schema"]["type"] == "model-fields"
        # One that sets itself up in code of its own may look at all settings there.
        has_code = schema.get("custom_init") or schema.get("post_init")
        if is_plain and not has_code and not any(map(_sees_others, _parts(model, schema))):
            self._schemas = {n: f["schema"] for n, f in schema["schema"]["fields"].items()}

    def are_worth_it(self, count: int) -> bool:
        """Return whether so many of the settings should be validated one by one."""
        return count <= max(_ALWAYS, len(self._schemas) // _ONE_IN) and bool(self._schemas)

    def replace(self, settings: WaffleSettings, values: Mapping[str, object]) -> WaffleSettings:
        """Return the settings with some other values, which have been validated."""
        made = copy.copy(settings)
        found = vars(made)
        found.update(values)
        if len(found) != len(self._schemas):  # it has cached properties, of the former values
            for name in found.keys() - self._schemas.keys():
                del found[name]
        return made

    def validator(self, name: str) -> SchemaValidator:
        """Return the validator of one setting; one of the application may raise anything in it."""
        if name not in self._validators:
            schema = self._schemas[name]
            if self._definitions:
                definitions = self._definitions
                schema = {"type": "definitions", "schema": schema, "definitions": definitions}
            self._validators[name] = SchemaValidator(schema, self._config)
        return self._validators[name]


def _sees_others(part: dict[str, Any]) -> bool:
    """Return whether a part of a schema is code that is given the other settings."""
    function = part.get("function")
    takes_info = isinstance(function, dict) and function.get("type") == "with-info"
    return takes_info or bool(part.get("default_factory_takes_data"))


def _parts(*schemas: object) -> Iterator[dict[str, Any]]:
    """Yield a schema and every one within it."""
    left = list(schemas)
    while left:
        part = left.pop()
        if isinstance(part, dict):
            yield part
            left += [within for key, within in part.items() if key not in _NO_SCHEMA]
        elif isinstance(part, list | tuple):
            left += part
