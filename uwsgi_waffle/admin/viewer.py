"""The person who sends the request: which settings they may see and change."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from flask import g

from uwsgi_waffle.bus.fleet import Fleet, Refusal
from uwsgi_waffle.errors import InvalidSetting
from uwsgi_waffle.ops.status import describe_undeclared
from uwsgi_waffle.sql.history import Change
from uwsgi_waffle.values.snapshot import Snapshot

from .fields import Input, inputs_of, shown

if TYPE_CHECKING:
    from uwsgi_waffle.process.state import State

    from .permission import Permission

#: What stands in the place of findings about what may not be seen.
_HIDDEN_FINDING = {
    "type": "hidden",
    "loc": (),
    "msg": "The change does not go with settings that you have no permission to see.",
}

__all__ = ["Line", "Viewer", "viewer"]


@dataclass(frozen=True, slots=True)
class Line:
    """One setting that a change is about, as it is shown.

    :ivar theirs: the other change made to it meanwhile, if there is one
    :ivar is_reset: it goes back to its default
    """

    name: str
    old: str
    new: str
    is_secret: bool
    is_reset: bool = False
    theirs: Change | None = None


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

    def visible(self, changes: Iterable[Change]) -> list[Change]:
        """Return the changes that may be seen."""
        return [change for change in changes if self.permission.may_see(change.name)]

    def line(self, name: str, old: object, new: object, *, is_reset: bool = False) -> Line:
        """Return two values of a setting as they are shown."""
        is_secret = name in self.state.declaration.secrets
        old_text, new_text = (shown(value, is_secret=is_secret) for value in (old, new))
        return Line(name, old_text, new_text, is_secret, is_reset)

    def lines(self, changes: Iterable[Change]) -> list[Line]:
        """Return lines of the history as they are shown."""
        return [self.line(c.name, c.old, c.new, is_reset=c.is_default) for c in changes]

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

    def findings(self, error: InvalidSetting) -> list[dict[str, Any]]:
        """Return what is wrong with a change, without what may not be seen of it."""
        if self.permission.sees_all:
            return list(error.errors)
        found = [item for item in error.errors if self._may_see_finding(item)]
        return found if len(found) == len(error.errors) else [*found, _HIDDEN_FINDING]

    def _may_see_finding(self, finding: dict[str, Any]) -> bool:
        # About the settings as a whole, an application's words may hold any value.
        name = str(finding["loc"][0]) if finding.get("loc") else None
        is_setting = name is None or name in self.state.declaration.names
        return not is_setting or (name is not None and self.permission.may_see(name))

    def may_change_all(self, error: InvalidSetting) -> bool:
        """Return whether all that a refused change is about may be changed by the viewer."""
        names = {str(item["loc"][0]) if item.get("loc") else "" for item in error.errors}
        return len(self.editable) == len(self.state.declaration.names) or names <= self.editable

    def problems(self, problems: tuple[str, ...]) -> list[str]:
        """Return problems without those about settings that may not be seen."""
        if self.permission.sees_all:
            return list(problems)
        current = self.state.serving.current
        hidden = {
            str(refused)
            for refused in current.refused
            if not refused.name or not self.permission.may_see(refused.name)
        }
        if not all(map(self.permission.may_see, current.undeclared)):
            hidden.add(describe_undeclared(current.undeclared))
        return [problem for problem in problems if problem not in hidden]


def viewer() -> Viewer:
    """Return the viewer of the request."""
    return cast("Viewer", g.waffle_viewer)
