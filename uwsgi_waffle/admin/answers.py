"""What the JSON interface answers: these types make its OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field
from typing_extensions import NotRequired, TypedDict

from uwsgi_waffle.ops.plain import ChangeJson

__all__ = [
    "ANSWERS",
    "Conflict",
    "Done",
    "HistoryAnswer",
    "Invalid",
    "Problem",
    "SettingsAnswer",
    "StatusAnswer",
]

Revision = Annotated[int, Field(ge=0)]


class LastChange(TypedDict):
    """Who changed a setting last."""

    revision: Revision
    actor: str | None
    comment: str | None
    source: str
    at: str


class DeclaredSetting(TypedDict):
    """What is declared of a setting, and who changed it last."""

    description: str
    group: str
    default: Any
    is_default: bool
    is_secret: bool
    may_edit: bool
    schema: dict[str, Any]
    changed: LastChange | None


class SettingsAnswer(TypedDict):
    """The settings that may be seen; secrets are masked."""

    revision: Revision
    settings: dict[str, Any]
    declarations: dict[str, DeclaredSetting]


class HistoryAnswer(TypedDict):
    """Changes, newest first."""

    changes: list[ChangeJson]


class OldAndNew(TypedDict):
    """A value before and after a change."""

    old: Any
    new: Any


class Done(TypedDict):
    """What a write did."""

    revision: Revision
    changes: dict[str, OldAndNew]
    announced: bool


class StatusAnswer(TypedDict):
    """Every process of every host, and what is not as it should be."""

    revision: int | None
    lineage: str | None
    fleet: dict[str, Any]
    hosts: list[dict[str, Any]]
    problems: list[str]


class Problem(TypedDict):
    """A refusal."""

    error: str
    message: str


class ConflictingSetting(TypedDict):
    """Two versions of a setting."""

    yours: Any
    present: Any
    changed: LastChange | None


class Conflict(TypedDict):
    """Another change came first; both versions of what was to be changed."""

    error: Literal["conflict"]
    message: str
    expected: Revision
    actual: Revision
    settings: dict[str, ConflictingSetting]


class Finding(TypedDict):
    """What is wrong with one value, in pydantic's words."""

    type: str
    loc: list[str | int]
    msg: str
    input: NotRequired[Any]


class Invalid(TypedDict):
    """Values, a body or a query that is refused."""

    error: Literal["invalid"]
    message: str
    errors: list[Finding]


#: Every answer, for the document.
ANSWERS: tuple[Any, ...] = (
    SettingsAnswer,
    HistoryAnswer,
    Done,
    StatusAnswer,
    Problem,
    Conflict,
    Invalid,
)
