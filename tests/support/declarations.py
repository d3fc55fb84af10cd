"""Declarations that several tests share."""

from __future__ import annotations

from pydantic import Field, model_validator
from typing_extensions import Self

from uwsgi_waffle import WaffleSettings

__all__ = ["Bounds"]


class Bounds(WaffleSettings):
    """Two settings, and a rule that they must keep together."""

    LO: int = Field(default=0, ge=0)
    HI: int = 10

    @model_validator(mode="after")
    def ordered(self) -> Self:
        """Hold LO below HI."""
        if self.LO > self.HI:
            message = "LO must not exceed HI"
            raise ValueError(message)
        return self
