"""What the tests of commands share: an application with settings of several types."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask
from pydantic import Field, SecretStr, model_validator
from typing_extensions import Self

from tests.conftest import Apps
from uwsgi_waffle import WaffleConf, WaffleSettings


class Settings(WaffleSettings):
    """Settings of several types, with a rule for the whole."""

    SITENAME: str = Field("Waffle", max_length=40)
    MIN: int = 0
    MAX: int = Field(1000, ge=1)
    RATIO: float = 0.5
    CLOSED: bool = False
    TAGS: list[str] = Field([])
    COLOURS: frozenset[str] = frozenset()
    LIMITS: dict[str, int] = Field({})
    NOTE: str | None = None
    API_KEY: SecretStr = SecretStr("k")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.MIN > self.MAX:
            message = "MIN must not be greater than MAX"
            raise ValueError(message)
        return self


Site = tuple[Flask, WaffleConf[Any]]


@pytest.fixture
def site(apps: Apps) -> Site:
    """Give an application without a change."""
    return apps(Settings)
