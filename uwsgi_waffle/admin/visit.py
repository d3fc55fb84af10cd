"""The request at hand: which application's settings, and what whoever asks may do."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, cast

from flask import g

from uwsgi_waffle.sql.history import Change
from uwsgi_waffle.values.settings import MASK
from uwsgi_waffle.values.snapshot import Snapshot

from .fields import Input, inputs_of, shown

if TYPE_CHECKING:
    from uwsgi_waffle.process.state import State

    from .permission import Permission

__all__ = ["ShownChange", "Visit", "visit"]


@dataclass(frozen=True, slots=True)
class ShownChange:
    """A line of history as it is shown."""

    change: Change
    old: str
    new: str


@dataclass(frozen=True)
class Visit:
    """Who asks, and what for.

    :ivar state: the settings of the application
    :ivar permission: what may be seen and changed
    """

    state: State
    permission: Permission

    @cached_property
    def inputs(self) -> tuple[Input, ...]:
        """The settings that may be seen."""
        return tuple(
            one for one in inputs_of(self.state.declaration) if self.permission.may_see(one.name)
        )

    @cached_property
    def editable(self) -> frozenset[str]:
        """The settings that may be changed."""
        return frozenset(one.name for one in self.inputs if self.permission.may_edit(one.name))

    @property
    def snapshot(self) -> Snapshot:
        """What the request sees."""
        return self.state.pins.seen()

    def visible(self, changes: list[Change]) -> list[ShownChange]:
        """Return the lines of history that may be seen, as they are shown."""
        return [self.show(change) for change in changes if self.permission.may_see(change.name)]

    def show(self, change: Change) -> ShownChange:
        """Return a line of history as it is shown; a secret is masked there already."""
        is_secret = change.name in self.state.declaration.secrets
        old, new = (
            shown(value, is_secret=is_secret or value == MASK) for value in (change.old, change.new)
        )
        return ShownChange(change, old, new)

    def problems(self, problems: tuple[str, ...]) -> list[str]:
        """Return problems without those that tell of settings which may not be seen."""
        if self.permission.sees_all:
            return list(problems)
        hidden = {
            str(problem)
            for problem in self.state.serving.current.problems
            if problem.name is None or not self.permission.may_see(problem.name)
        }
        return [problem for problem in problems if problem not in hidden]


def visit() -> Visit:
    """Return the visit that the request is."""
    return cast("Visit", g.waffle_visit)
