"""What the JSON interface answers, as types that make its OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter
from typing_extensions import NotRequired, TypedDict

__all__ = ["answer_schemas"]

_Revision = Annotated[int, Field(ge=0)]


def _object(name: str, /, **fields: Any) -> Any:
    """Return the type of an object that has these fields, and no other."""
    make: Any = TypedDict  # mypy wants the fields in the call
    return make(name, fields)


def _by_name(kind: Any) -> Any:
    return dict.__class_getitem__((str, kind))


_signed: dict[str, Any] = {
    "revision": _Revision,
    "actor": str | None,
    "comment": str | None,
    "source": str,
    "at": str,
}
_Change = _object("Change", **_signed, name=str, old=Any, new=Any, is_default=bool)
_LastChange = _object("LastChange", **_signed)
_Declared = _object(
    "DeclaredSetting",
    description=str,
    group=str,
    default=Any,
    is_default=bool,
    is_secret=bool,
    may_edit=bool,
    schema=dict[str, Any],
    changed=_LastChange | None,
)
_OldAndNew = _object("OldAndNew", old=Any, new=Any)
_Conflicting = _object("ConflictingSetting", yours=Any, present=Any, changed=_LastChange | None)
_Finding = _object("Finding", type=str, loc=list[str | int], msg=str, input=NotRequired[Any])

_ANSWERS = (
    _object(
        "SettingsAnswer",
        revision=_Revision,
        settings=dict[str, Any],
        declarations=_by_name(_Declared),
    ),
    _object("HistoryAnswer", changes=list.__class_getitem__(_Change)),
    _object("Done", revision=_Revision, changes=_by_name(_OldAndNew), announced=bool),
    _object(
        "StatusAnswer",
        revision=int | None,
        lineage=str | None,
        fleet=dict[str, Any],
        hosts=list[dict[str, Any]],
        problems=list[str],
    ),
    _object("Problem", error=str, message=str),
    _object(
        "Conflict",
        error=Literal["conflict"],
        message=str,
        expected=_Revision,
        actual=_Revision,
        settings=_by_name(_Conflicting),
    ),
    _object(
        "Invalid", error=Literal["invalid"], message=str, errors=list.__class_getitem__(_Finding)
    ),
)


def answer_schemas() -> dict[str, Any]:
    """Return the schema of each answer, and of each type in it, by name."""
    adapters: list[Any] = [(answer, "serialization", TypeAdapter(answer)) for answer in _ANSWERS]
    schemas: dict[str, Any] = TypeAdapter.json_schemas(adapters)[1]["$defs"]
    for name, schema in schemas.items():
        # A body that is not JSON is a problem with the findings of an invalid one.
        schema["additionalProperties"] = name == "Problem"
    return schemas
