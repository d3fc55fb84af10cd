"""The person who sends the request: which settings they may see and change."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, cast

from flask import g

from uwsgi_waffle.bus.fleet import Fleet, Refusal
from uwsgi_waffle.sql.history import Change
from uwsgi_waffle.values.settings import MASK
from uwsgi_waffle.values.snapshot import Snapshot

from .fields import Input, inputs_of, shown

if TYPE_CHECKING:
    from uwsgi_waffle.process.state import State

    from .permission import Permission

__all__ = ["ShownChange", "Viewer", "viewer"]


@dataclass(frozen=True, slots=True)
class ShownChange:
    """A line of history as it is shown."""

    change: Change
    old: str
    new: str


@dataclass(frozen=True)
class Viewer:
    """A person, and the settings of the application as they may see them.

    :ivar state: the state of the application
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
        """The snapshot of the request."""
        return self.state.pins.seen()

    def visible(self, changes: list[Change]) -> list[ShownChange]:
        """Return the lines of history that may be seen, as they are shown."""
        return [self._shown(change) for change in changes if self.permission.may_see(change.name)]

    def _shown(self, change: Change) -> ShownChange:
        """Return a line of history as it is shown; a secret is masked there already."""
        is_secret = change.name in self.state.declaration.secrets
        old, new = (
            shown(value, is_secret=is_secret or value == MASK) for value in (change.old, change.new)
        )
        return ShownChange(change, old, new)

    def refusals(self, fleet: Fleet) -> list[Refusal]:
        """Return what processes refuse, without what may not be seen of it."""
        return [self._visible_refusal(refusal) for refusal in fleet.refused]

    def _visible_refusal(self, refusal: Refusal) -> Refusal:
        # The reason may name any setting where the settings as a whole are refused.
        is_hidden = not self.permission.may_see(refusal.name) if refusal.name else False
        if self.permission.sees_all or (refusal.name and not is_hidden):
            return refusal
        name = "a setting that you have no permission to see" if is_hidden else ""
        return replace(refusal, name=name, reason="you have no permission to see the reason")

    def problems(self, problems: tuple[str, ...]) -> list[str]:
        """Return problems without those about settings that may not be seen."""
        if self.permission.sees_all:
            return list(problems)
        hidden = {
            str(problem)
            for problem in self.state.serving.current.problems
            if problem.name is None or not self.permission.may_see(problem.name)
        }
        return [problem for problem in problems if problem not in hidden]


def viewer() -> Viewer:
    """Return the viewer of the request."""
    return cast("Viewer", g.waffle_viewer)
