"""A pickle that shows whether anybody has loaded it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

__all__ = ["Bomb"]


class Bomb:
    """Something that makes a directory when its pickle is loaded."""

    def __init__(self, proof: Path) -> None:
        self._proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._proof),)
