"""Who changed what, when and why, in the words of the declaration."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from .cipher import Undecipherable
from .settings import MASK

if TYPE_CHECKING:
    from .state import State
    from .store import StoredChange

__all__ = ["Change", "read_history", "read_latest", "read_timeline"]


@dataclass(frozen=True, slots=True)
class Change:
    """One setting changed by one revision.

    :ivar old: the value before; typed where today's declaration takes it, else as plain JSON
    :ivar new: the value after, likewise
    :ivar is_default: the setting went back to its default, which was *new* then
    :ivar actor: who, where they said
    :ivar comment: why, where they said
    :ivar source: by which way: ``python``, ``cli``, ``api`` or ``page``
    :ivar at: when, in UTC
    """

    revision: int
    name: str
    old: Any
    new: Any
    actor: str | None
    comment: str | None
    at: datetime
    source: str
    is_default: bool


def read_history(
    state: State, name: str | None = None, limit: int | None = 50, *, reveal: bool = False
) -> list[Change]:
    """Return changes, newest first; secrets are masked unless *reveal*.

    :param name: a declared setting, or one that used to be
    :raises ValueError: the limit is negative, which each database takes for something else
    :raises StoreUnavailable: the database did not answer
    """
    if limit is not None and limit < 0:
        message = f"limit = {limit}: give how many changes at most, or None for all."
        raise ValueError(message)
    return [_change(state, stored, reveal=reveal) for stored in state.store.history(name, limit)]


def read_latest(state: State) -> dict[str, Change]:
    """Return the last change of each setting that was ever changed; secrets are masked.

    :raises StoreUnavailable: the database did not answer
    """
    return {c.name: _change(state, c, reveal=False) for c in state.store.latest()}


def read_timeline(
    state: State,
    limit: int,
    *,
    names: Collection[str] | None = None,
    before: int | None = None,
) -> list[Change]:
    """Return the changes of the latest revisions, each whole, newest first; secrets are masked.

    :param limit: how many revisions at most
    :param names: only changes of these settings; ``None`` for all
    :param before: only revisions older than this one
    :raises StoreUnavailable: the database did not answer
    """
    stored = state.store.timeline(limit, names=names, before=before)
    return [_change(state, change, reveal=False) for change in stored]


def _change(state: State, stored: StoredChange, *, reveal: bool) -> Change:
    return Change(
        revision=stored.revision,
        name=stored.name,
        old=_value(state, stored.name, stored.old, reveal=reveal),
        new=_value(state, stored.name, stored.new, reveal=reveal),
        actor=stored.actor,
        comment=stored.comment,
        at=stored.at,
        source=stored.source,
        is_default=stored.is_default,
    )


def _value(state: State, name: str, text: str, *, reveal: bool) -> Any:
    """Return a stored text as a value."""
    sealed = name in state.declaration.secrets or state.cipher.is_sealed(text)
    if sealed and not reveal:
        return MASK
    try:
        plain = state.cipher.open(text)
    except Undecipherable:
        return MASK
    return state.declaration.value_from_json(name, plain)
