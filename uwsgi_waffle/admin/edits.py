"""From a form to one revision: what is to change, what is wrong, and what is in conflict.

A form carries the revision it was made from. What differs from that revision is what its sender
wants to change; a setting that another revision has changed differently since is a conflict.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from flask import abort

from uwsgi_waffle.errors import InvalidSetting, RevisionConflict
from uwsgi_waffle.process.writes import Update
from uwsgi_waffle.sql.changes import MAX_COMMENT_LENGTH, Signature
from uwsgi_waffle.values.position import Position
from uwsgi_waffle.values.settings import WaffleSettings
from uwsgi_waffle.values.snapshot import Record, Snapshot, build

from .fields import Input, normalise
from .viewer import Line, Viewer

if TYPE_CHECKING:
    from uwsgi_waffle.process.state import State
    from uwsgi_waffle.values.declaration import Declaration

__all__ = [
    "FORBIDDEN_ROLLBACK",
    "ROLLBACK",
    "Draft",
    "Submission",
    "by_name",
    "change",
    "draft",
    "make_rollback",
    "save",
    "settings_at",
    "sql_snapshot",
]

#: How often another change may come first before saving is given up.
_TRIES = 20
ROLLBACK = "rollback to revision "
FORBIDDEN_ROLLBACK = "The rollback would change settings that you have no permission to change."


@dataclass(frozen=True, slots=True)
class Submission:
    """What a form holds.

    :ivar revision: the revision that the form was made from
    :ivar texts: setting name -> its text
    :ivar resets: names of the settings to set back to their defaults
    :ivar theirs: names where the value of the other change stays
    """

    revision: int
    texts: Mapping[str, str] = field(repr=False)  # secrets among them
    resets: frozenset[str] = frozenset()
    theirs: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Draft:
    """What would be saved.

    :ivar base: the present settings
    :ivar values: name -> value of the settings that change, without :attr:`resets`; for a change
        that is refused, without meaning
    :ivar resets: the settings that go back to their defaults
    :ivar lines: what changes and may be seen, in order of declaration
    :ivar errors: name -> what is wrong; ``""`` -> what is wrong with the whole
    """

    base: Snapshot
    values: Mapping[str, object] = field(repr=False)
    resets: frozenset[str]
    lines: tuple[Line, ...]
    errors: dict[str, list[str]]

    @property
    def conflicts(self) -> tuple[Line, ...]:
        """The lines of settings that another change has changed meanwhile."""
        return tuple(line for line in self.lines if line.theirs is not None)


def sql_snapshot(state: State) -> Snapshot:
    """Return what SQL holds now, which may be later than what this process serves.

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


def change(
    now: Snapshot, values: Mapping[str, object], resets: Iterable[str], declaration: Declaration
) -> WaffleSettings:
    """Return the settings after a change.

    :param values: name -> value as JSON has it
    :param resets: the settings that go back to their defaults, whatever their value
    :raises InvalidSetting: a value, or the whole, is refused
    """
    texts = {name: json.dumps(value) for name, value in values.items()}
    texts |= {name: declaration.default_json[name] for name in resets}
    return declaration.with_json(now.settings, texts)


def draft(here: Viewer, submission: Submission, *, is_whole_form: bool) -> Draft:
    """Return what a form would change of the present settings.

    :param here: who has sent it
    :param is_whole_form: the form also holds settings that its sender did not edit
    :raises StoreUnavailable: the database did not answer
    """
    state = here.state
    now = sql_snapshot(state)
    errors: dict[str, list[str]] = {}
    base = settings_at(state, submission.revision, now)
    edited = _edited(here, submission, base if is_whole_form else None, errors)
    resets = submission.resets - submission.theirs
    wanted = {**edited, **{name: getattr(state.declaration.defaults, name) for name in resets}}
    after = _validated(here, now, edited, resets, errors)
    latest = state.history.latest() if submission.revision != now.revision else {}
    lines, values = [], {}
    for line in _lines(here, now, wanted, after):
        if is_whole_form and base is not None and after is not None:
            one, other = base.values[line.name], getattr(after, line.name)
            if not state.declaration.differ(line.name, one, other):
                continue  # its text differs, its value does not, such as 1.0 for 1
        if line.name in edited:  # else it goes back to its default, or a validator has changed it
            values[line.name] = getattr(after, line.name, None)
        last = latest.get(line.name)
        is_theirs = last is not None and last.revision > submission.revision
        theirs = last if is_theirs else None
        lines.append(replace(line, is_reset=line.name in resets, theirs=theirs))
    return Draft(now, values, resets & {line.name for line in lines}, tuple(lines), errors)


def save(here: Viewer, submission: Submission, comment: str) -> tuple[Draft, Update | None]:
    """Save a form as one revision, unless it has an error or a conflict.

    :return: the draft; and what was done, ``None`` where nothing was saved
    :raises StoreUnavailable: the database did not answer
    """
    for _ in range(_TRIES):
        planned = draft(here, submission, is_whole_form=False)
        if planned.errors or planned.conflicts or not planned.lines:
            return planned, None
        try:
            done = here.state.writer.update(
                planned.values,
                Signature(here.permission.name, comment or None, "page"),
                resets=planned.resets,
                expected_revision=planned.base.revision,
            )
        except InvalidSetting as error:
            planned.errors.update(by_name(here.findings(error)))
            return planned, None
        except RevisionConflict:
            continue  # another change came first; it may be about the same settings
        return planned, done
    planned.errors[""] = ["Other changes kept coming first, so nothing was saved. Try again."]
    return planned, None


def _edited(
    here: Viewer, submission: Submission, base: Snapshot | None, errors: dict[str, list[str]]
) -> dict[str, object]:
    """Return the values of the texts that the sender has edited."""
    inputs = {one.name: one for one in here.inputs}
    edited: dict[str, object] = {}
    for name, text in submission.texts.items():
        if name in submission.resets or name in submission.theirs:
            continue
        one = inputs[name]
        if _is_untouched(one, text, base):
            continue
        try:
            edited[name] = one.value(text)
        except ValueError as error:
            errors.setdefault(name, []).append(str(error))
    return edited


def _is_untouched(one: Input, text: str, base: Snapshot | None) -> bool:
    """Return whether a text is the one that the form was made with."""
    if one.is_secret and not text:
        return True
    return base is not None and text == normalise(one.text(base.values[one.name]))


def _validated(
    here: Viewer,
    now: Snapshot,
    edited: Mapping[str, object],
    resets: Iterable[str],
    errors: dict[str, list[str]],
) -> WaffleSettings | None:
    """Return the settings after the change, ``None`` after adding what is wrong to *errors*."""
    try:
        return change(now, edited, resets, here.state.declaration)
    except InvalidSetting as error:
        for name, messages in by_name(here.findings(error)).items():
            errors.setdefault(name, []).extend(messages)
        return None


def by_name(findings: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return pydantic's messages by setting; those about the whole under the empty name."""
    found: dict[str, list[str]] = {}
    for item in findings:
        place = [str(part) for part in item.get("loc", ())]
        inner = f" (at {'.'.join(place[1:])})" if place[1:] else ""
        message = str(item["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
        found.setdefault(place[0] if place else "", []).append(f"{message}{inner}")
    return found


def _lines(
    here: Viewer, now: Snapshot, wanted: Mapping[str, object], after: WaffleSettings | None
) -> Iterable[Line]:
    """Yield what differs from the present settings and may be seen, in order of declaration.

    Where the change is refused, that is everything that was to change.
    """
    for name in (one.name for one in here.inputs):
        value = now.values[name]
        if after is None:
            if name in wanted:
                yield here.line(name, value, wanted[name])
        elif here.state.declaration.differ(name, value, getattr(after, name)):
            yield here.line(name, value, getattr(after, name))


def make_rollback(
    here: Viewer, revision: int, comment: str | None, source: str, *, expected: int | None
) -> Update:
    """Make a new revision equal to an earlier one; its comment says so, and why, if given.

    :raises RevisionConflict: the settings are not at the *expected* revision
    """
    writer = here.state.writer
    planned = writer.preview_rollback(revision)
    if expected is not None and expected != planned.revision:
        raise RevisionConflict(expected=expected, actual=planned.revision)
    if planned.changes.keys() - here.editable:
        abort(403, FORBIDDEN_ROLLBACK)
    reason = f": {comment}" if comment else ""
    comment = f"{ROLLBACK}{revision}{reason}"[:MAX_COMMENT_LENGTH]
    signature = Signature(here.permission.name, comment, source)
    return writer.rollback(revision, signature, expected_revision=planned.revision)
