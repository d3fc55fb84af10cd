"""One edit of the settings: what a transaction does to the rows of its locked record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from uwsgi_waffle.errors import InvalidSetting
from uwsgi_waffle.host import layout
from uwsgi_waffle.host.areas import encode_record
from uwsgi_waffle.sql.store import RowChange
from uwsgi_waffle.values.cipher import Undecipherable
from uwsgi_waffle.values.position import NOWHERE, Position
from uwsgi_waffle.values.settings import MASK, WaffleSettings
from uwsgi_waffle.values.snapshot import Delta, Problem, Record, Snapshot, build

from .parts import Parts

__all__ = ["Edit"]


class Edit:
    """One edit: what a transaction calls with the record that it has locked.

    :ivar changes: name -> (old, new) of the settings that it changed the last time it was called;
        the old value is the stored one, also where this release cannot use that
    :ivar unusable: the problems that those changes replaced
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
        self._before = served
        self.changes: dict[str, tuple[Any, Any]] = {}
        self.unusable: tuple[Problem, ...] = ()
        self._seen = NOWHERE
        self._rows: Mapping[str, RowChange] = {}

    def __call__(self, record: Record) -> Mapping[str, RowChange]:
        """Return what to do to the rows; settings that stay equal are left alone.

        :raises InvalidSetting: a value, or the whole, is refused
        """
        declaration = self._declaration
        before = self._served if self._is_served(record) else self._decode(record)
        after = self._wanted
        # Validated twice: what the caller gave, beside what others have written; and the texts of
        # it, which every other process reads and serves.
        if isinstance(after, WaffleSettings):
            texts = declaration.texts(after)
            after = declaration.round_trip(after, texts)
        else:
            after, texts = declaration.changed(before.settings, after)
        rows = self._row_changes(record, before, after, texts)
        unusable = _unusable(record, before)
        self.changes = {
            name: (
                self._stored_value(name, row.old)
                if name in unusable
                else getattr(before.settings, name),
                getattr(after, name),
            )
            for name, row in rows.items()
        }
        self.unusable = tuple(
            p
            for p in before.problems
            if p.name in rows or (p.name is None and unusable & set(rows))
        )
        self._check_size(record, rows)
        self._seen, self._rows, self._before = record.position, rows, before
        return rows

    def delta(self, position: Position) -> Delta | None:
        """Return what made the record at a position, ``None`` where a secret is in it in clear."""
        rows = {name: None if c.is_default else c.new for name, c in self._rows.items()}
        texts = (rows[name] for name in rows.keys() & self._declaration.secrets)
        if not all(text is None or self._cipher.is_sealed(text) for text in texts):
            return None
        return Delta(self._seen, position, rows)

    def snapshot(self, record: Record) -> Snapshot:
        """Return the snapshot of the record that this edit has made."""
        return build(self._declaration, self._cipher, record, self._before)

    def _is_served(self, record: Record) -> bool:
        """Return whether this process serves a record, as it is stored."""
        served, declaration = self._served, self._declaration
        if record.position != served.position or not served.position.lineage:
            return False
        rows, defaults = record.rows, declaration.default_json
        try:  # the application may have changed a list or a dict in place
            return all(
                self._cipher.open(rows.get(name, defaults[name]))
                == declaration.to_json(served.settings, name)
                for name in served.changeable
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
        unusable = _unusable(record, before)
        rows = {}
        for name, text in texts.items():
            resets = name in self._defaults
            repairs = name in self._names and (name in unusable or (resets and name in record.rows))
            is_same = getattr(before.settings, name) is getattr(after, name)
            if is_same and not repairs:
                continue
            old = self._declaration.to_json(before.settings, name)
            if text == old and not repairs:
                continue
            self._declaration.check_size(name, text)
            if name in unusable:
                old = record.rows[name]
            is_secret = name in self._declaration.secrets
            if is_secret:
                text = self._cipher.seal(text)  # noqa: PLW2901
                old = old if self._cipher.is_sealed(old) else self._cipher.seal(old)
            rows[name] = RowChange(old, text, resets, is_secret)
        return rows

    def _stored_value(self, name: str, text: str) -> Any:
        """Return a stored value that this release cannot use, as far as it can be read."""
        try:
            return self._declaration.value_from_json(name, self._cipher.open(text))
        except Undecipherable:
            return MASK

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


def _unusable(record: Record, before: Snapshot) -> frozenset[str]:
    """Return the settings that have a stored value which is not what is served."""
    refused = {problem.name for problem in before.problems}
    if not refused:
        return frozenset()
    return frozenset(name for name in record.rows if name in refused or None in refused)
