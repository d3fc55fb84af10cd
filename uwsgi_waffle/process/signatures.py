"""What may be said of a change: who made it, and why."""

from __future__ import annotations

from uwsgi_waffle.errors import InvalidSetting
from uwsgi_waffle.sql.store import Signature

__all__ = ["check"]

_MAX_ACTOR_LENGTH = 200
_MAX_COMMENT_LENGTH = 10_000


def check(signature: Signature | None) -> None:
    """Refuse texts that some database would not store as they are.

    :raises InvalidSetting: names the argument
    """
    if signature is None:
        return
    for field_name, max_length in (("actor", _MAX_ACTOR_LENGTH), ("comment", _MAX_COMMENT_LENGTH)):
        text = getattr(signature, field_name)
        if text is None:
            continue
        problem = _text_problem(text, max_length)
        if problem is not None:
            raise InvalidSetting([{"type": "value_error", "loc": (field_name,), "msg": problem}])


def _text_problem(text: object, max_length: int) -> str | None:
    if not isinstance(text, str):
        return f"it must be a text, not {type(text).__name__}"
    if len(text) > max_length:
        return f"it has {len(text):,} characters; the most is {max_length:,}"
    if any(character == "\0" or "\ud800" <= character <= "\udfff" for character in text):
        return "it holds a character that no database stores (NUL, or half of a surrogate pair)"
    return None
