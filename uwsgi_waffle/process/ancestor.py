"""What code for Flask-WaffleConf asks of the state of an application."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

__all__ = ["AncestorState"]


class AncestorState(Protocol):
    """The three methods that Flask-WaffleConf's state has."""

    def parse_conf(self, keys: Sequence[str] = ()) -> dict[str, Any]:
        """Return settings by name, all of them where no *keys* are given."""

    def update_db(self, values: Mapping[str, Any]) -> None:
        """Store values, announce them and serve them."""

    def update_conf(self) -> None:
        """Compare with SQL, and serve newer settings."""
