"""Who may see and change which settings, as the application's ``authorize`` says."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from flask import Request

__all__ = ["Authorize", "Permission", "as_permission"]


@dataclass(frozen=True)
class Permission:
    """What a person may do.

    :ivar name: who it is, for the history
    :ivar see: names of the settings to show; ``None`` for all
    :ivar edit: names of those that may be changed, as far as they may be seen; ``None`` for all
    """

    name: str
    see: Collection[str] | None = None
    edit: Collection[str] | None = None

    def __post_init__(self) -> None:
        """Refuse a text in place of a collection of names: it would match pieces of itself.

        :raises TypeError: it is one
        """
        for key, names in (("see", self.see), ("edit", self.edit)):
            if isinstance(names, str):
                message = f"Permission({key}={names!r}): give a collection of names: [{names!r}]."
                raise TypeError(message)

    def may_see(self, name: str) -> bool:
        """Return whether a setting, and its history, is shown."""
        return self.see is None or name in self.see

    def may_edit(self, name: str) -> bool:
        """Return whether a setting may be changed."""
        return self.may_see(name) and (self.edit is None or name in self.edit)

    @property
    def sees_all(self) -> bool:
        """Whether every setting is shown."""
        return self.see is None


#: Given the request, returns the actor's name or permission; ``None`` for 403.
Authorize = Callable[[Request], "str | Permission | None"]


def as_permission(answer: object) -> Permission | None:
    """Return what an ``authorize`` has answered; an empty name counts as no permission.

    :raises TypeError: it is of another type
    """
    if isinstance(answer, str):
        return Permission(answer) if answer else None
    if isinstance(answer, Permission):
        return answer if answer.name else None
    if answer is None:
        return None
    message = (
        "authorize(request) must return the actor's name, a Permission or None, "
        f"not {type(answer).__name__}."
    )
    raise TypeError(message)
