"""The applications that one extension serves, which is at hand, and what is asked of its state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast
from weakref import WeakSet

from flask import current_app, has_app_context

from uwsgi_waffle.errors import WaffleError

from .state import State

if TYPE_CHECKING:
    from flask import Flask

__all__ = ["EXTENSION_NAME", "AncestorState", "Applications"]

EXTENSION_NAME = "waffleconf"


class Applications:
    """The applications of one extension.

    :ivar only: the state of the application where there is just one
    """

    def __init__(self) -> None:
        self.only: State | None = None
        self._states: WeakSet[State] = WeakSet()
        self._count = 0

    def add(self, app: Flask, state: State) -> None:
        """Add an application, which is set up."""
        app.extensions[EXTENSION_NAME] = state
        self._states.add(state)
        self._count += 1
        self.only = state if self._count == 1 else None

    def find(self) -> State:
        """Return the state of the one application, or of the current one where there are several.

        :raises WaffleError: there is none, or several and none is current
        """
        state = self.only or self.at_hand()
        if state is not None:
            return state
        if not self._count:
            message = "This WaffleConf has no app yet. Call init_app(app) first."
            raise WaffleError(message)
        message = (
            "This WaffleConf serves several apps, and none of them is current. "
            "Use it within `with app.app_context():`."
        )
        raise WaffleError(message)

    def at_hand(self) -> State | None:
        """Return the state that :meth:`find` would, ``None`` where it would raise."""
        if self.only is not None:
            return self.only
        if self._count and has_app_context():
            state = current_app.extensions.get(EXTENSION_NAME)
            if state in self._states:  # and is not that of another extension
                return cast("State", state)
        return None


class AncestorState(Protocol):
    """The three methods that Flask-WaffleConf's state has."""

    def parse_conf(self, keys: Sequence[str] = ()) -> dict[str, Any]:
        """Return settings by name, all of them where no *keys* are given."""

    def update_db(self, values: Mapping[str, Any]) -> None:
        """Store values, announce them and serve them."""

    def update_conf(self) -> None:
        """Compare with SQL, and serve newer settings."""
