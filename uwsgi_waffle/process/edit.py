"""One edit of the settings: what a transaction does to the rows of its locked record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from uwsgi_waffle.errors import InvalidSetting, invalid_setting
from uwsgi_waffle.host import layout
from uwsgi_waffle.host.areas import encode_record
from uwsgi_waffle.sql.store import RowChange
from uwsgi_waffle.values.cipher import Undecipherable
from uwsgi_waffle.values.position import Position
from uwsgi_waffle.values.settings import MASK, WaffleSettings
from uwsgi_waffle.values.snapshot import Delta, Record, RefusedValue, Snapshot, build

from .parts import Parts

__all__ = ["Edit"]


class Edit:
    """One edit: what a transaction calls with the record that it has locked.

    :ivar changes: name -> (old, new) of the settings that it changed the last time it was called;
        the old value is the stored one, also where this release cannot use that
    :ivar unusable: the refused values that those changes replaced
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
        self.changes: dict[str, tuple[Any, Any]] = {}
        self.unusable: tuple[RefusedValue, ...] = ()
        self._record, self._before = Record(), served
        self._rows: dict[str, RowChange] = {}

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
        unusable = _unusable(record, before)
        self._record, self._before, self._rows, self.changes = record, before, {}, {}
        for name, text in texts.items():
            old, new = getattr(before.settings, name), getattr(after, name)
            resets, is_unusable = name in self._defaults, name in unusable
            repairs = name in self._names and (is_unusable or (resets and name in record.rows))
            if old is new and not repairs:
                continue
            old_text = declaration.to_json(before.settings, name)
            if text == old_text and not repairs:
                continue
            declaration.check_size(name, text)
            if is_unusable:
                old_text = record.rows[name]
                old = self._stored_value(name, old_text)
            self.changes[name] = old, new
            self._rows[name] = self._row_change(name, old_text, text, resets=resets)
        self.unusable = tuple(
            value
            for value in before.refused
            if value.name in self._rows or (not value.name and unusable & self._rows.keys())
        )
        self._check_size()
        return self._rows

    def delta(self, position: Position) -> Delta | None:
        """Return what made the record at a position, ``None`` where a secret is in it in clear."""
        rows = self._stored()
        texts = (rows[name] for name in rows.keys() & self._declaration.secrets)
        if not all(text is None or self._cipher.is_sealed(text) for text in texts):
            return None
        return Delta(self._record.position, position, rows)

    def snapshot(self, record: Record) -> Snapshot:
        """Return the snapshot of the record that this edit has made."""
        decoded = {name: new for name, (_, new) in self.changes.items()}
        return build(self._declaration, self._cipher, record, self._before, decoded)

    def _stored(self) -> dict[str, str | None]:
        return {name: change.stored for name, change in self._rows.items()}

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

    def _row_change(self, name: str, old: str, new: str, *, resets: bool) -> RowChange:
        is_secret = name in self._declaration.secrets
        if is_secret:
            new = self._cipher.seal(new)
            old = old if self._cipher.is_sealed(old) else self._cipher.seal(old)
        return RowChange(old, new, resets, is_secret)

    def _stored_value(self, name: str, text: str) -> Any:
        """Return a stored value that this release cannot use, as far as it can be read."""
        try:
            return self._declaration.value_from_json(name, self._cipher.open(text))
        except Undecipherable:
            return MASK

    def _check_size(self) -> None:
        """Refuse a change that makes the settings too large for the host snapshot.

        :raises InvalidSetting: it does
        """
        before, changes = self._record, self._rows
        texts = [*before.rows.values(), *(change.new for change in changes.values())]
        # JSON within JSON takes six times the characters at worst, which is seldom worth a look.
        if 6 * sum(map(len, texts)) + 200 * len(texts) < layout.ROOM_BYTES:
            return
        size = len(encode_record(before.changed(before.position, self._stored())))
        grows = any(len(c.new) > len(before.rows.get(name, "")) for name, c in changes.items())
        if size > layout.ROOM_BYTES and grows:
            message = (
                f"With it all settings take {size:,} bytes; the most is {layout.ROOM_BYTES:,}. "
                "Keep large values in files or tables of their own"
            )
            raise invalid_setting(message, max(changes))


def _unusable(record: Record, before: Snapshot) -> frozenset[str]:
    """Return the settings that have a stored value which is not what is served."""
    refused = {value.name for value in before.refused}
    if not refused:
        return frozenset()
    return frozenset(name for name in record.rows if name in refused or "" in refused)
