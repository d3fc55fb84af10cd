"""What a writer does to the settings, and what the history keeps of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from uwsgi_waffle.errors import invalid_setting
from uwsgi_waffle.values.snapshot import Record

__all__ = ["MAX_COMMENT_LENGTH", "Edit", "RowChange", "Signature"]

#: Longest comment that the history stores, in characters.
MAX_COMMENT_LENGTH = 10_000
_MAX_ACTOR_LENGTH = 200


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

    @property
    def stored(self) -> str | None:
        """What the setting's row holds from then on; ``None`` where it has none."""
        return None if self.is_default else self.new


@dataclass(frozen=True, slots=True)
class Signature:
    """Who makes a change, why, and through which interface, for the history.

    :raises InvalidSetting: some database would not store the actor or the comment as it is
    """

    actor: str | None = None
    comment: str | None = None
    source: str = "python"

    def __post_init__(self) -> None:
        _check("actor", self.actor, _MAX_ACTOR_LENGTH)
        _check("comment", self.comment, MAX_COMMENT_LENGTH)


def _check(field_name: str, text: object, max_length: int) -> None:
    if text is None:
        return
    if not isinstance(text, str):
        problem = f"it must be a text, not {type(text).__name__}"
    elif len(text) > max_length:
        problem = f"it has {len(text):,} characters; the most is {max_length:,}"
    elif any(character == "\0" or "\ud800" <= character <= "\udfff" for character in text):
        problem = "it holds a character that no database stores (NUL, or half of a surrogate pair)"
    else:
        return
    raise invalid_setting(problem, field_name)


#: Given the present record, returns what to do to it.
Edit = Callable[[Record], Mapping[str, RowChange]]
