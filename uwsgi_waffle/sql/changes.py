"""What a writer does to the settings, and what the history keeps of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from uwsgi_waffle.values.snapshot import Record

__all__ = ["Edit", "RowChange", "Signature"]


@dataclass(frozen=True, slots=True)
class RowChange:
    """What a writer does to one setting; texts as they are stored.

    :ivar is_default: the setting goes back to its default, so its row is deleted
    :ivar is_secret: the history shows it masked, whatever is declared later
    """

    old: str = field(repr=False)  # secrets among them
    new: str = field(repr=False)
    is_default: bool = False
    is_secret: bool = False


@dataclass(frozen=True, slots=True)
class Signature:
    """Who makes a change, why, and through which interface, for the history."""

    actor: str | None = None
    comment: str | None = None
    source: str = "python"


#: Given the present record, returns what to do to it.
Edit = Callable[[Record], Mapping[str, RowChange]]
