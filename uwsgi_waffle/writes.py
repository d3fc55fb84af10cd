"""Changing settings: one transaction, one revision, one message, one swap.

Everything that can refuse a change happens before the commit; everything after it only makes the
change arrive sooner, so what fails there is logged and raises nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .bus import Announcement
from .cipher import Undecipherable
from .errors import InvalidSetting, UnknownRevision
from .fanout import wake_workers
from .settings import Declaration, WaffleSettings
from .snapshot import Record, Snapshot, build
from .store import RowChange, Signature

if TYPE_CHECKING:
    from .state import State

__all__ = ["Update", "Writer"]

logger = logging.getLogger(__name__)

_MAX_ACTOR_LENGTH = 200
_MAX_COMMENT_LENGTH = 10_000


@dataclass(frozen=True, slots=True)
class Update:
    """What a write did.

    :ivar revision: the revision that it made, or the present one where nothing changed
    :ivar changes: name -> (old, new) of the settings that changed; not in the repr, as secrets may
        be among them
    :ivar announced: whether Redis took the announcement; where it did not, other hosts see the
        change when they next poll SQL, or when a listener of this host could announce it
    """

    revision: int
    changes: Mapping[str, tuple[Any, Any]] = field(repr=False)
    announced: bool


class Writer:
    """Writes the settings of one application."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._declaration: Declaration = state.declaration
        self._cipher = state.cipher

    def update(
        self,
        values: Mapping[str, object],
        signature: Signature | None = None,
        *,
        resets: Iterable[str] = (),
        expected_revision: int | None = None,
    ) -> Update:
        """Set some settings, and others back to their defaults; see :meth:`WaffleConf.update`."""
        defaults = frozenset(resets)
        self._declaration.check_known([*values, *defaults])
        wanted = {name: getattr(self._declaration.defaults, name) for name in defaults}

        def plan(base: Snapshot) -> _Plan:
            after = self._declaration.validate(base.settings, {**values, **wanted})
            return _Plan(after, frozenset(values) | defaults, defaults)

        return self._write(plan, signature, expected_revision)

    def reset(
        self,
        names: Iterable[str],
        signature: Signature | None = None,
        *,
        expected_revision: int | None = None,
    ) -> Update:
        """Set some settings back to their defaults; see :meth:`WaffleConf.reset`."""
        return self.update({}, signature, resets=names, expected_revision=expected_revision)

    def rollback(
        self,
        revision: int,
        signature: Signature | None = None,
        *,
        expected_revision: int | None = None,
    ) -> Update:
        """Make a new revision equal to an earlier one; see :meth:`WaffleConf.rollback`."""
        planned = self._rollback_plan(revision)
        return self._write(lambda _base: planned, signature, expected_revision)

    def settings_at(self, revision: int) -> WaffleSettings:
        """Return what a rollback to a revision would leave; raises as :meth:`rollback`."""
        return self._rollback_plan(revision).after

    def spread(self, record: Record) -> bool:
        """Make a committed record arrive everywhere, and return whether Redis announces it."""
        return self._spread(record, changed=True)

    def _rollback_plan(self, revision: int) -> _Plan:
        then = self._state.store.rows_at(revision)
        if then is None:
            raise UnknownRevision(revision, self._state.store.peek()[1])
        declared = {name: text for name, text in then.items() if name in self._declaration.names}
        stored = {
            name: self._open(name, text) for name, text in declared.items() if text is not None
        }
        defaults = frozenset(name for name, text in declared.items() if text is None)
        return _Plan(self._declaration.decode(stored), frozenset(declared), defaults)

    def _write(
        self, plan: _Planner, signature: Signature | None, expected_revision: int | None
    ) -> Update:
        """Run a plan inside the transaction, then spread what it did."""
        signature = _checked(signature or Signature())
        changes: dict[str, tuple[Any, Any]] = {}

        def rows(record: Record) -> Mapping[str, RowChange]:
            base = build(self._declaration, self._cipher, record, self._last_good(record))
            planned = plan(base)
            changed = self._row_changes(base, record, planned)
            changes.clear()  # the transaction may be run again
            for name in changed:
                changes[name] = getattr(base.settings, name), getattr(planned.after, name)
            return changed

        seen = self._state.host.position()
        record = self._state.store.write(
            rows, signature, expected_revision=expected_revision, beyond=seen
        )
        self._note_new_history(record, seen)
        return Update(record.revision, changes, self._spread(record, changed=bool(changes)))

    def _note_new_history(self, record: Record, seen: tuple[str, int]) -> None:
        """Say where a change has made a lineage, though this host had seen another one."""
        if seen[0] and record.lineage != seen[0] and record.revision == 1:
            logger.warning(
                "waffle: revision 1 begins a new history, as the database %s held no settings, "
                "though this host has seen revision %d. All settings but those that it changed are "
                "at their defaults. Restore the database if that is not meant.",
                self._state.store.database.url,
                seen[1],
            )

    def _last_good(self, record: Record) -> Snapshot | None:
        current = self._state.holder.current
        return current if current.lineage == record.lineage else None

    def _row_changes(self, base: Snapshot, record: Record, plan: _Plan) -> dict[str, RowChange]:
        """Return what the plan does to the rows; settings it leaves equal are left alone."""
        rows = record.rows or {}
        broken = {problem.name for problem in base.problems}
        texts = {
            name: self._declaration.to_json(plan.after, name) for name in self._declaration.names
        }
        self._declaration.check_round_trip(plan.after, texts)
        changes = {}
        for name, text in texts.items():
            old = self._declaration.to_json(base.settings, name)
            resets = name in plan.defaults
            mends = name in plan.names and (name in broken or (resets and name in rows))
            if text != old or mends:
                changes[name] = RowChange(self._seal(name, old), self._seal(name, text), resets)
        return changes

    def _open(self, name: str, text: str) -> str:
        """Return the text behind a stored one.

        :raises InvalidSetting: no key at hand opens it
        """
        try:
            return self._cipher.open(text)
        except Undecipherable as error:
            finding = {"type": "value_error", "loc": (name,), "msg": str(error)}
            raise InvalidSetting([finding]) from None

    def _seal(self, name: str, text: str) -> str:
        return self._cipher.seal(text) if name in self._declaration.secrets else text

    def _spread(self, record: Record, *, changed: bool) -> bool:
        """Make a committed record arrive everywhere, and return whether Redis announces it."""
        announced = False
        try:
            self._state.host.publish(record)
            if changed:
                wake_workers()
            if changed and self._state.config.multiproc:
                # Before the callbacks of this process, which may take their time.
                news = Announcement(self._state.config.namespace, record.lineage, record.revision)
                announced = self._state.listening.bus.publish(news)
            # Where the host snapshot is not to be had, this process at least has the record.
            self._state.take(record)
            self._state.catch_up()
        except Exception:
            logger.exception(
                "waffle: revision %d is committed, but could not be spread at once; every process "
                "sees it when it next compares with SQL.",
                record.revision,
            )
        return announced


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a write wants.

    :ivar after: the settings after it
    :ivar names: those it is about; others may change by the application's own validators
    :ivar defaults: of those, the ones that go back to their default
    """

    after: WaffleSettings
    names: frozenset[str]
    defaults: frozenset[str]


_Planner = Callable[[Snapshot], _Plan]


def _checked(signature: Signature) -> Signature:
    """Refuse texts that some database would not store as they are.

    :raises InvalidSetting: names the argument
    """
    for field_name, most in (("actor", _MAX_ACTOR_LENGTH), ("comment", _MAX_COMMENT_LENGTH)):
        text = getattr(signature, field_name)
        if text is None:
            continue
        problem = _text_problem(text, most)
        if problem is not None:
            raise InvalidSetting([{"type": "value_error", "loc": (field_name,), "msg": problem}])
    return signature


def _text_problem(text: object, most: int) -> str | None:
    if not isinstance(text, str):
        return f"it must be a text, not {type(text).__name__}"
    if len(text) > most:
        return f"it has {len(text):,} characters; the most is {most:,}"
    if any(character == "\0" or "\ud800" <= character <= "\udfff" for character in text):
        return "it holds a character that no database stores (NUL, or half of a surrogate pair)"
    return None
