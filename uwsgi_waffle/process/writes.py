"""Changing settings: one transaction, one revision, one message, one swap.

Everything that can refuse a change happens before the commit; everything after it only makes the
change arrive sooner, so a failure there is logged and raises nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from uwsgi_waffle.bus.client import BusUnavailable
from uwsgi_waffle.errors import InvalidSetting, UnknownRevision
from uwsgi_waffle.host import layout
from uwsgi_waffle.host.records import encode_record
from uwsgi_waffle.server import _uwsgi
from uwsgi_waffle.server.hooks import wake_workers
from uwsgi_waffle.sql.store import RowChange, Signature
from uwsgi_waffle.values.canonical import SCALARS
from uwsgi_waffle.values.cipher import Undecipherable
from uwsgi_waffle.values.position import Position
from uwsgi_waffle.values.settings import WaffleSettings
from uwsgi_waffle.values.snapshot import Record, Snapshot, build

from .parts import Parts
from .serving import Serving

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
    :ivar announced: whether Redis delivered the announcement to a subscriber; where it did not,
        other hosts see the change when they next poll SQL, or once this host's listener announces
        it
    """

    revision: int
    changes: Mapping[str, tuple[Any, Any]] = field(repr=False)
    announced: bool


class Writer:
    """Writes the settings of one application."""

    def __init__(self, parts: Parts, serving: Serving) -> None:
        self._parts = parts
        self._serving = serving

    def update(
        self,
        values: Mapping[str, object],
        signature: Signature | None = None,
        *,
        resets: Iterable[str] = (),
        expected_revision: int | None = None,
    ) -> Update:
        """Set some settings, and others back to their defaults; see :meth:`WaffleConf.update`."""
        declaration, defaults = self._parts.declaration, frozenset(resets)
        declaration.check_known([*values, *defaults])
        wanted = {**values, **{name: getattr(declaration.defaults, name) for name in defaults}}
        edit = _Edit(self._parts, self._serving.current, frozenset(wanted), defaults, wanted)
        return self._write(edit, signature, expected_revision)

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
        rows = self._rows_at(revision)
        after = self._decode(rows)
        defaults = frozenset(name for name, text in rows.items() if text is None)
        edit = _Edit(self._parts, self._serving.current, frozenset(rows), defaults, after)
        return self._write(edit, signature, expected_revision)

    def settings_at(self, revision: int) -> WaffleSettings:
        """Return what a rollback to a revision would leave; raises as :meth:`rollback`."""
        return self._decode(self._rows_at(revision))

    def spread(self, record: Record, keys: tuple[str, ...] | None = None) -> bool:
        """Make a record that was committed without a change arrive everywhere.

        :param keys: what signs its announcement; the record's if left out
        :return: whether Redis announced it
        """
        current = self._serving.current
        snapshot = build(self._parts.declaration, self._parts.cipher, record, current)
        return self._spread(record, snapshot, keys or record.keys)

    def _rows_at(self, revision: int) -> dict[str, str | None]:
        """Return what the declared settings held at a revision, ``None`` for the default."""
        rows = self._parts.history.rows_at(revision)
        if rows is None:
            raise UnknownRevision(revision, self._parts.store.peek().revision)
        return {n: text for n, text in rows.items() if n in self._parts.declaration.names}

    def _decode(self, rows: Mapping[str, str | None]) -> WaffleSettings:
        stored = {name: self._open(name, text) for name, text in rows.items() if text is not None}
        return self._parts.declaration.decode(stored)

    def _open(self, name: str, text: str) -> str:
        """Return the text behind a stored one.

        :raises InvalidSetting: none of the keys opens it
        """
        try:
            return self._parts.cipher.open(text)
        except Undecipherable as error:
            finding = {"type": "value_error", "loc": (name,), "msg": str(error)}
            raise InvalidSetting([finding]) from None

    def _write(
        self, edit: _Edit, signature: Signature | None, expected_revision: int | None
    ) -> Update:
        """Run an edit inside the transaction, then spread the record that it made."""
        parts, seen = self._parts, self._parts.host.position
        _check(signature)
        beyond = self._highest(seen) if parts.config.multiproc else seen
        record = parts.store.write(
            edit, signature or Signature(), expected_revision=expected_revision, beyond=beyond
        )
        revision = record.position.revision
        if not edit.changes:
            self._serving.apply(record)
            return Update(revision, {}, announced=False)
        if revision == 1 and seen.lineage not in ("", record.position.lineage):
            self._log_new_history(seen)
        announced = self._spread(record, edit.snapshot(record), record.keys)
        return Update(revision, edit.changes, announced)

    def _highest(self, seen: Position) -> Position:
        """Return the highest position that any host has seen, which the next one must pass."""
        if self._parts.bus.is_resting:
            return seen
        try:
            reported = self._parts.reports.highest(seen.lineage)
        except BusUnavailable as error:
            self._parts.bus.rest(error)
            return seen
        return reported if seen.is_behind(reported) else seen

    def _log_new_history(self, seen: Position) -> None:
        """Log that a change has made a lineage, though this host had seen another one."""
        logger.warning(
            "waffle: revision 1 begins a new history, as the database %s held no settings, "
            "though this host has seen revision %d. All settings but those that it changed are "
            "at their defaults. Restore the database if that is not meant.",
            self._parts.store.database.url,
            seen.revision,
        )

    def _spread(self, record: Record, snapshot: Snapshot, keys: tuple[str, ...]) -> bool:
        """Make a committed record arrive everywhere, and return whether Redis announced it."""
        parts = self._parts
        announced = False
        try:
            sequence = parts.host.publish(record)
            if _uwsgi.server is not None:
                wake_workers()
            if parts.config.multiproc:
                # Before the callbacks of this process, which may take long.
                announced = parts.bus.publish(record.position, keys)
            # Where the host snapshot cannot be written, this process at least has the record.
            self._serving.serve(snapshot, sequence)
        except Exception:
            logger.exception(
                "waffle: revision %d is committed, but could not be spread at once; every process "
                "sees it when it next compares with SQL.",
                record.revision,
            )
        return announced


class _Edit:
    """One edit: what a transaction calls with the record that it has locked.

    :ivar changes: name -> (old, new) of the settings that it changed the last time it was called
    """

    def __init__(
        self,
        parts: Parts,
        served: Snapshot,
        names: frozenset[str],
        defaults: frozenset[str],
        wanted: Mapping[str, object] | WaffleSettings,
    ) -> None:
        """Prepare an edit.

        :param served: what this process serves, in place of a second decoding of the same
        :param names: those it is about; others may change by the application's own validators
        :param defaults: of those, the ones that go back to their default
        :param wanted: the values of *names*, or the settings after the edit
        """
        self._declaration = parts.declaration
        self._cipher = parts.cipher
        self._served = served
        self._names = names
        self._defaults = defaults
        self._wanted = wanted
        self._after = served.settings
        self._problems = served.problems
        self.changes: dict[str, tuple[Any, Any]] = {}

    def __call__(self, record: Record) -> Mapping[str, RowChange]:
        """Return what to do to the rows; settings that stay equal are left alone.

        :raises InvalidSetting: a value, or the whole, is refused
        """
        declaration = self._declaration
        before = self._served if self._is_served(record) else self._decode(record)
        after = self._wanted
        if not isinstance(after, WaffleSettings):
            # The first validation, of what the caller gave, beside what others have written.
            after = declaration.validate_known(before.settings, after)
        texts = declaration.texts(after)
        # The second, of the texts, which every other process reads and serves.
        self._after = declaration.round_trip(after, texts)
        rows = self._row_changes(record, before, after, texts)
        self.changes = {
            name: (getattr(before.settings, name), getattr(self._after, name)) for name in rows
        }
        self._problems = tuple(p for p in before.problems if p.name not in rows)
        self._check_size(record, rows)
        return rows

    def snapshot(self, record: Record) -> Snapshot:
        """Return the snapshot of the record that this edit has made."""
        return Snapshot(
            record.position,
            self._after,
            MappingProxyType(self._declaration.values(self._after)),
            self._problems,
            tuple(sorted(record.rows.keys() - set(self._declaration.names))),
        )

    def _is_served(self, record: Record) -> bool:
        """Return whether this process serves a record, as it is stored."""
        served, declaration = self._served, self._declaration
        if record.position != served.position or not served.position.lineage:
            return False
        # The application may have changed a list or a dict in place.
        changeable = [name for name, value in served.values.items() if type(value) not in SCALARS]
        stored = {**declaration.default_json, **record.rows} if changeable else {}
        try:
            return all(
                self._cipher.open(stored[name]) == declaration.to_json(served.settings, name)
                for name in changeable
            )
        except (Undecipherable, InvalidSetting):
            return False

    def _decode(self, record: Record) -> Snapshot:
        """Return what a record means that this process does not serve."""
        is_same_database = record.position.lineage == self._served.position.lineage
        last_good = self._served if is_same_database else None
        return build(self._declaration, self._cipher, record, last_good)

    def _row_changes(
        self, record: Record, before: Snapshot, after: WaffleSettings, texts: Mapping[str, str]
    ) -> dict[str, RowChange]:
        refused = {problem.name for problem in before.problems}
        rows = {}
        for name, text in texts.items():
            resets = name in self._defaults
            repairs = name in self._names and (name in refused or (resets and name in record.rows))
            is_same = getattr(before.settings, name) is getattr(after, name)
            if is_same and not repairs:
                continue
            old = self._declaration.to_json(before.settings, name)
            if text == old and not repairs:
                continue
            is_secret = name in self._declaration.secrets
            if is_secret:
                old, text = self._cipher.seal(old), self._cipher.seal(text)  # noqa: PLW2901
            rows[name] = RowChange(old, text, resets, is_secret)
        return rows

    def _check_size(self, record: Record, changes: Mapping[str, RowChange]) -> None:
        """Refuse a change that makes the settings too large for the host snapshot.

        :raises InvalidSetting: it does
        """
        rows = {name: text for name, text in record.rows.items() if name not in changes}
        rows |= {name: c.new for name, c in changes.items() if not c.is_default}
        # JSON within JSON takes six times the characters at worst, which is seldom worth a look.
        if 6 * sum(map(len, rows.values())) + 200 * len(rows) < layout.ROOM_BYTES:
            return
        size = len(encode_record(Record(record.position, rows, record.keys)))
        grows = any(len(c.new) > len(record.rows.get(name, "")) for name, c in changes.items())
        if size > layout.ROOM_BYTES and grows:
            message = (
                f"With it all settings take {size:,} bytes; the most is {layout.ROOM_BYTES:,}. "
                "Keep large values in files or tables of their own"
            )
            finding = {"type": "value_error", "loc": (max(changes),), "msg": message}
            raise InvalidSetting([finding])


def _check(signature: Signature | None) -> None:
    """Refuse texts that some database would not store as they are.

    :raises InvalidSetting: names the argument
    """
    if signature is None:
        return
    for field_name, max_length in (("actor", _MAX_ACTOR_LENGTH), ("comment", _MAX_COMMENT_LENGTH)):
        text = getattr(signature, field_name)
        if text is None:
            continue
        problem = _text_problem(text, max_length)
        if problem is not None:
            raise InvalidSetting([{"type": "value_error", "loc": (field_name,), "msg": problem}])


def _text_problem(text: object, max_length: int) -> str | None:
    if not isinstance(text, str):
        return f"it must be a text, not {type(text).__name__}"
    if len(text) > max_length:
        return f"it has {len(text):,} characters; the most is {max_length:,}"
    if any(character == "\0" or "\ud800" <= character <= "\udfff" for character in text):
        return "it holds a character that no database stores (NUL, or half of a surrogate pair)"
    return None
