"""From a form to one revision: what is meant, what is wrong, and who else was at it.

A form carries the revision it was made from. What differs from that revision is what its sender
means to change; what somebody else has changed since then, and differently, is a conflict.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from uwsgi_waffle.errors import InvalidSetting, RevisionConflict
from uwsgi_waffle.process.writes import Update
from uwsgi_waffle.sql.history import Change
from uwsgi_waffle.sql.store import Signature
from uwsgi_waffle.values.position import Position
from uwsgi_waffle.values.settings import WaffleSettings
from uwsgi_waffle.values.snapshot import Record, Snapshot, build

from .fields import Input, inputs_of, normalise, shown

if TYPE_CHECKING:
    from uwsgi_waffle.process.state import State


__all__ = ["Draft", "Line", "Submission", "draft", "present", "save", "settings_at"]

#: How often somebody else may be quicker before we give up.
_TRIES = 20


@dataclass(frozen=True, slots=True)
class Submission:
    """What a form says.

    :ivar revision: the revision that the form was made from
    :ivar texts: setting name -> its text
    :ivar resets: names of the settings to set back to their defaults
    :ivar theirs: names where somebody else's value stays
    """

    revision: int
    texts: Mapping[str, str] = field(repr=False)  # secrets among them
    resets: frozenset[str] = frozenset()
    theirs: frozenset[str] = frozenset()

    @property
    def names(self) -> frozenset[str]:
        """The settings that it says something about."""
        return frozenset(self.texts) | self.resets


@dataclass(frozen=True, slots=True)
class Line:
    """One setting that a draft changes, as it is shown.

    :ivar theirs: who has changed it meanwhile, where somebody has
    :ivar is_reset: it goes back to its default
    """

    name: str
    old: str
    new: str
    is_secret: bool
    is_reset: bool = False
    theirs: Change | None = None


@dataclass(frozen=True, slots=True)
class Draft:
    """What would be saved.

    :ivar base: the present settings
    :ivar values: name -> value of what changes, but for what goes back to its default
    :ivar lines: what changes, in order of declaration
    :ivar errors: name -> what is wrong; ``""`` -> what is wrong with the whole
    """

    base: Snapshot
    values: Mapping[str, object] = field(repr=False)
    resets: frozenset[str]
    lines: tuple[Line, ...]
    errors: dict[str, list[str]]

    @property
    def conflicts(self) -> tuple[Line, ...]:
        """What somebody else has changed meanwhile."""
        return tuple(line for line in self.lines if line.theirs is not None)


def present(state: State) -> Snapshot:
    """Return what SQL holds now, which another host may have changed a moment ago.

    :raises StoreUnavailable: the database did not answer
    """
    return _decoded(state, state.store.read())


def settings_at(state: State, revision: int, now: Snapshot) -> Snapshot | None:
    """Return the settings of a revision, or ``None`` where the history does not reach it.

    :raises StoreUnavailable: the database did not answer
    """
    if revision == now.revision:
        return now
    texts = state.history.rows_at(revision)
    if texts is None:
        return None
    rows = {name: text for name, text in texts.items() if text is not None}
    return _decoded(state, Record(Position(now.position.lineage, revision), rows))


def _decoded(state: State, record: Record) -> Snapshot:
    current = state.serving.current
    last_good = current if current.position.lineage == record.position.lineage else None
    return build(state.declaration, state.cipher, record, last_good)


def draft(state: State, submission: Submission, *, is_whole_form: bool) -> Draft:
    """Return what a form would change, looked at against the present settings.

    :param is_whole_form: the form holds settings that its sender did not touch
    :raises StoreUnavailable: the database did not answer
    """
    now = present(state)
    errors: dict[str, list[str]] = {}
    base = settings_at(state, submission.revision, now)
    meant = _meant(state, submission, base if is_whole_form else None, errors)
    resets = submission.resets - submission.theirs
    wanted = {**meant, **{name: getattr(state.declaration.defaults, name) for name in resets}}
    after = _validated(state, now, wanted, errors)
    latest = state.history.latest() if submission.revision != now.revision else {}
    lines, values = [], {}
    for line in _lines(state, now, wanted, after):
        if is_whole_form and base is not None and _is_same(line.name, after, base.settings):
            continue  # only its text was another one, such as 1.0 for 1
        if line.name in meant:  # else it goes back to its default, or a validator has changed it
            values[line.name] = meant[line.name]
        change = latest.get(line.name)
        is_theirs = change is not None and change.revision > submission.revision
        lines.append(
            Line(
                line.name,
                line.old,
                line.new,
                line.is_secret,
                line.name in resets,
                change if is_theirs else None,
            )
        )
    return Draft(now, values, resets & {line.name for line in lines}, tuple(lines), errors)


def save(
    state: State, submission: Submission, actor: str, comment: str
) -> tuple[Draft, Update | None]:
    """Save what a form says as one revision, unless something is wrong with it or in its way.

    :return: the draft; and what was done, ``None`` where nothing was
    :raises StoreUnavailable: the database did not answer
    """
    signature = Signature(actor, comment or None, "page")
    for _ in range(_TRIES):
        planned = draft(state, submission, is_whole_form=False)
        if planned.errors or planned.conflicts or not planned.lines:
            return planned, None
        try:
            done = state.writer.update(
                planned.values,
                signature,
                resets=planned.resets,
                expected_revision=planned.base.revision,
            )
        except InvalidSetting as error:
            planned.errors.update(by_name(error))
            return planned, None
        except RevisionConflict:
            continue  # somebody was quicker: look again whether it was about the same settings
        return planned, done
    planned.errors[""] = ["Others kept saving at the same moment. Try again."]
    return planned, None


def _meant(
    state: State, submission: Submission, base: Snapshot | None, errors: dict[str, list[str]]
) -> dict[str, object]:
    """Return what the texts mean, but for those that the form was made with."""
    inputs = {one.name: one for one in inputs_of(state.declaration)}
    meant: dict[str, object] = {}
    for name, text in submission.texts.items():
        if name in submission.resets or name in submission.theirs:
            continue
        one = inputs[name]
        if _is_untouched(one, text, base):
            continue
        try:
            meant[name] = one.value(text)
        except ValueError as error:
            errors.setdefault(name, []).append(str(error))
    return meant


def _is_untouched(one: Input, text: str, base: Snapshot | None) -> bool:
    """Return whether a text is the one that the form was made with."""
    if one.is_secret and not text:
        return True
    return base is not None and text == normalise(one.text(base.values[one.name]))


def _validated(
    state: State, now: Snapshot, wanted: Mapping[str, object], errors: dict[str, list[str]]
) -> WaffleSettings | None:
    """Return the settings after the change, or say what is wrong with them."""
    try:
        return state.declaration.validate(now.settings, wanted)
    except InvalidSetting as error:
        for name, messages in by_name(error).items():
            errors.setdefault(name, []).extend(messages)
        return None


def by_name(error: InvalidSetting) -> dict[str, list[str]]:
    """Return pydantic's messages by setting; those of the whole under the empty name."""
    found: dict[str, list[str]] = {}
    for item in error.errors:
        place = [str(part) for part in item.get("loc", ())]
        inner = f" (at {'.'.join(place[1:])})" if place[1:] else ""
        message = str(item["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
        found.setdefault(place[0] if place else "", []).append(f"{message}{inner}")
    return found


def _lines(
    state: State, now: Snapshot, wanted: Mapping[str, object], after: WaffleSettings | None
) -> Iterable[Line]:
    """Yield what differs from the present settings, in order of declaration.

    Where the change is refused, all that is wanted.
    """
    for name in state.declaration.names:
        if after is None:
            if name in wanted:
                yield difference(state, name, now.values[name], wanted[name])
        elif not _is_same(name, after, now.settings):
            yield difference(state, name, now.values[name], getattr(after, name))


def difference(state: State, name: str, old: Any, new: Any) -> Line:
    """Return two values of a setting as they are shown."""
    is_secret = name in state.declaration.secrets
    return Line(name, shown(old, is_secret=is_secret), shown(new, is_secret=is_secret), is_secret)


def _is_same(name: str, one: WaffleSettings | None, other: WaffleSettings) -> bool:
    return one is not None and bool(getattr(one, name) == getattr(other, name))
