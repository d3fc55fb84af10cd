"""What is sent to the JSON interface, as pydantic models: they refuse, and they document."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from typing_extensions import Self

from uwsgi_waffle.sql.changes import MAX_COMMENT_LENGTH

__all__ = ["HistoryQuery", "Patch", "Rollback"]


def _whole(number: object) -> object:
    """Return 41 for 41.0, which is the same number in JSON."""
    return int(number) if isinstance(number, float) and number.is_integer() else number


#: SQL's own integers end there.
Revision = Annotated[int, Field(ge=0, lt=2**63, strict=True), BeforeValidator(_whole)]
#: Without NUL, which databases do not store.
Comment = Annotated[str, Field(max_length=MAX_COMMENT_LENGTH, pattern=r"^[^\x00]*$")]


class Patch(BaseModel):
    """The body of ``PATCH settings``; settings are in ``settings``, or beside it."""

    model_config = ConfigDict(extra="allow")

    settings: dict[str, Any] = Field(default_factory=dict, description="Name -> new value.")
    reset: list[str] = Field([], description="Names of the settings to set back to their defaults.")
    comment: Comment | None = Field(None, description="Why, for the history.")

    @model_validator(mode="after")
    def _check_once(self) -> Self:
        """Refuse two values for one setting, of which one would count."""
        twice = sorted(self.settings.keys() & (self.model_extra or {}).keys())
        if twice:
            message = f"{', '.join(twice)} is given twice: in settings, and beside it"
            raise ValueError(message)
        return self


class Rollback(BaseModel):
    """The body of ``POST rollback``."""

    model_config = ConfigDict(extra="forbid")

    revision: Revision = Field(description="The revision to go back to.")
    comment: Comment | None = Field(None, description="Why, for the history.")


class HistoryQuery(BaseModel):
    """The query of ``GET history``."""

    model_config = ConfigDict(extra="forbid")

    name: str | None = Field(None, pattern=r"^[^\x00]*$", description="One setting only.")
    limit: int = Field(50, ge=1, le=1000, description="How many revisions at most.")
    before: int | None = Field(
        None, ge=0, lt=2**63, description="Only revisions older than this one."
    )
