"""Announcements: that a state of the settings exists, and what its commit changed.

What a commit changed saves a listener a read of SQL, if that is at the state before it. A secret
travels only if it is encrypted.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from uwsgi_waffle.values.position import MAX_REVISION, Position
from uwsgi_waffle.values.snapshot import Delta

from .signing import is_signed, sign

__all__ = ["MAX_MESSAGE_BYTES", "Announcement", "prepare"]

#: Largest message; what a commit changed is left out where it would be larger.
MAX_MESSAGE_BYTES = 4_000
#: At most what databases and snapshots hold.
_Revision = Annotated[int, Field(strict=True, ge=0, le=MAX_REVISION)]
_Changed = tuple[str, _Revision, str, dict[str, str | None]]
_Message = tuple[Literal["waffle"], str, str, _Revision, str, _Changed | None, str]


@cache
def _messages() -> TypeAdapter[tuple[Any, ...]]:
    return TypeAdapter(_Message)


def prepare() -> None:
    """Make what decodes messages, as nothing is shared that is made after a fork."""
    _messages()


@dataclass(frozen=True, slots=True)
class Announcement:
    """That a state of the settings exists.

    :ivar namespace: that of the settings
    :ivar position: the state
    :ivar delta: what its commit changed, where the message has room for it
    """

    namespace: str
    position: Position
    delta: Delta | None = None

    def encode(self, keys: Sequence[str]) -> str:
        """Return the message as it is published, signed by each key."""
        fields = self._fields()
        message = json.dumps([*fields, sign(keys, json.dumps(fields))])
        if self.delta is not None and len(message) > MAX_MESSAGE_BYTES:
            return self.without_delta().encode(keys)
        return message

    def without_delta(self) -> Announcement:
        """Return the announcement of the same state, without what its commit changed."""
        return Announcement(self.namespace, self.position)

    def has_room(self, keys: Sequence[str]) -> bool:
        """Return whether what the commit changed is in the message."""
        return self.delta is not None and self.encode(keys) != self.without_delta().encode(keys)

    def _fields(self) -> list[object]:
        at, delta = self.position, self.delta
        changed = None
        if delta is not None:
            before = delta.before
            changed = [before.lineage, before.revision, before.stamp, dict(delta.rows)]
        return ["waffle", self.namespace, at.lineage, at.revision, at.stamp, changed]

    @classmethod
    def decode(cls, message: object) -> tuple[Announcement, str] | None:
        """Return what a message announces, and its signatures; ``None`` where it is malformed."""
        if not isinstance(message, str | bytes) or len(message) > MAX_MESSAGE_BYTES:
            return None
        try:
            _, namespace, *at, changed, signatures = _messages().validate_json(message)
        except ValidationError:
            return None
        position = Position(*at)
        delta = None if changed is None else Delta(Position(*changed[:3]), position, changed[3])
        return cls(namespace, position, delta), signatures

    def is_signed(self, keys: Sequence[str], signatures: str) -> bool:
        """Return whether one of the signatures is by one of the keys."""
        return is_signed(keys, json.dumps(self._fields()), signatures)
