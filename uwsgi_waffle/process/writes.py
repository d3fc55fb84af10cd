"""Changing settings: one transaction, one revision, one message, one swap.

Everything that can refuse a change happens before the commit; everything after it only makes the
change arrive sooner, so a failure there is logged and raises nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from uwsgi_waffle.bus.client import Patience
from uwsgi_waffle.errors import UnknownRevision
from uwsgi_waffle.server import hooks
from uwsgi_waffle.sql.joining import Connection, JoinedTransaction
from uwsgi_waffle.sql.store import Signature
from uwsgi_waffle.values.position import Position
from uwsgi_waffle.values.snapshot import Record, RefusedValue, build

from .edit import Edit
from .parts import Parts
from .serving import Serving

__all__ = ["Preview", "Update", "Writer"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Update:
    """What a write did.

    :ivar revision: the revision that it made, or the present one where nothing changed
    :ivar changes: name -> (old, new) of the settings that changed; not in the repr, as secrets may
        be among them
    :ivar announced: whether Redis delivered the announcement to a subscriber; where it did not,
        other hosts see the change when they next poll SQL, or once this host's listener announces
        it; false, too, for a change that the caller has yet to commit
    """

    revision: int
    changes: Mapping[str, tuple[Any, Any]] = field(repr=False)
    announced: bool


@dataclass(frozen=True, slots=True)
class Preview:
    """What a write would do.

    :ivar revision: SQL's, before it
    :ivar changes: as those of :class:`Update`
    :ivar unusable: stored values that it would replace, though this release cannot use them
    """

    revision: int
    changes: Mapping[str, tuple[Any, Any]] = field(repr=False)
    unusable: tuple[RefusedValue, ...]


class Writer:
    """Writes the settings of one application."""

    def __init__(self, parts: Parts, serving: Serving) -> None:
        self._parts = parts
        self._serving = serving

    def update(
        self,
        values: Mapping[str, object],
        signature: Signature | None = None,
        expected_revision: int | None = None,
        connection: Connection | None = None,
        *,
        resets: Iterable[str] = (),
    ) -> Update:
        """Set some settings, and others back to their defaults; see :meth:`WaffleConf.update`."""
        declaration, defaults = self._parts.declaration, frozenset(resets)
        declaration.check_known([*values, *defaults])
        wanted = {**values, **{name: getattr(declaration.defaults, name) for name in defaults}}
        edit = Edit(self._parts, self._serving.current, frozenset(wanted), defaults, wanted)
        return self._write(edit, signature, expected_revision, connection)

    def reset(
        self,
        names: Iterable[str],
        signature: Signature | None = None,
        expected_revision: int | None = None,
        connection: Connection | None = None,
    ) -> Update:
        """Set some settings back to their defaults; see :meth:`WaffleConf.reset`."""
        given = tuple(names)
        for name in given:
            if not isinstance(name, str):
                message = f"reset() takes names of settings, not {type(name).__name__}."
                raise TypeError(message)
        return self.update({}, signature, expected_revision, connection, resets=given)

    def rollback(
        self,
        revision: int,
        signature: Signature | None = None,
        expected_revision: int | None = None,
        connection: Connection | None = None,
    ) -> Update:
        """Make a new revision equal to an earlier one; see :meth:`WaffleConf.rollback`."""
        return self._write(self._back_to(revision), signature, expected_revision, connection)

    def preview_rollback(self, revision: int) -> Preview:
        """Return what a rollback would change of what SQL holds; raises as :meth:`rollback`."""
        edit = self._back_to(revision)
        record = self._parts.store.read()
        edit(record)
        return Preview(record.revision, edit.changes, edit.unusable)

    def spread(
        self, record: Record, edit: Edit | None = None, patience: Patience | None = None
    ) -> bool:
        """Make a committed record arrive everywhere, and return whether Redis announced it.

        :param edit: what has made it, of which nothing is to be read or decoded again
        """
        parts = self._parts
        is_announced: Callable[[], bool] = lambda: False  # noqa: E731  # until it is
        try:
            sequence = parts.host.publish(record)
            # Before the listener can hear of it, which would wake them once more.
            if hooks.wake_workers() and sequence is not None:
                parts.host.note_woken(sequence, hooks.instance_number())
            if parts.config.multiproc:
                # While Redis answers, this process serves the record, and calls back.
                delta = edit.delta(record.position) if edit is not None else None
                is_announced = parts.bus.announce(record.position, record.keys, delta, patience)
            # Where the host snapshot cannot be written, this process at least has the record.
            if edit is not None:
                snapshot = edit.snapshot(record)
            else:
                snapshot = build(parts.declaration, parts.cipher, record, self._serving.current)
            self._serving.serve(snapshot, sequence)
        except Exception:
            logger.exception(
                "waffle: revision %d is committed, but could not be spread at once; every process "
                "sees it when it next compares with SQL.",
                record.revision,
            )
        return is_announced()

    def _back_to(self, revision: int) -> Edit:
        """Return the edit that makes a revision equal to an earlier one."""
        _check_revision(revision)
        parts = self._parts
        rows = parts.history.rows_at(revision)
        if rows is None:
            raise UnknownRevision(revision, parts.store.peek().revision)
        names = frozenset(rows).intersection(parts.declaration.names)
        stored = {name: text for name in names if (text := rows[name]) is not None}
        texts = {name: parts.cipher.open_setting(name, text) for name, text in stored.items()}
        after = parts.declaration.decode(texts)
        return Edit(parts, self._serving.current, names, names - texts.keys(), after)

    def _write(
        self,
        edit: Edit,
        signature: Signature | None,
        expected_revision: int | None,
        connection: Connection | None,
    ) -> Update:
        """Run an edit inside the transaction, then spread the record that it made.

        Within a transaction of the caller's, its commit does the latter.
        """
        if expected_revision is not None:
            _check_revision(expected_revision)
        parts, patience = self._parts, None
        beyond = seen = parts.host.position
        if parts.config.multiproc:
            patience = Patience()
            beyond = self._highest(seen, patience)
        joined = None if connection is None else JoinedTransaction(parts.store, connection)
        signed = signature or Signature()
        if joined is not None:
            record = joined.write(edit, signed, expected_revision=expected_revision, beyond=beyond)
        else:
            record = parts.store.write(
                edit,
                signed,
                expected_revision=expected_revision,
                beyond=beyond,
                known=self._serving.current.record,
            )
        revision = record.position.revision
        if not edit.changes:
            if joined is None:  # else it may be what an earlier change in there has made
                self._serving.apply(record)
            return Update(revision, {}, announced=False)
        if revision == 1 and seen.lineage not in ("", record.position.lineage):
            self._log_new_history(seen)
        if joined is not None:
            joined.after_commit(record.position, self.spread)
            return Update(revision, edit.changes, announced=False)
        return Update(revision, edit.changes, self.spread(record, edit, patience))

    def _highest(self, seen: Position, patience: Patience) -> Position:
        """Return the highest position that any host has seen, which the next one must pass."""
        reports = self._parts.reports
        reported = self._parts.bus.ask(lambda: reports.highest(seen.lineage), patience)()
        return reported if reported is not None and seen.is_behind(reported) else seen

    def _log_new_history(self, seen: Position) -> None:
        """Log that a change has made a lineage, though this host had seen another one."""
        logger.warning(
            "waffle: revision 1 begins a new history, as the database %s held no settings, "
            "though this host has seen revision %d. All settings but those that it changed are "
            "at their defaults. Restore the database if that is not meant.",
            self._parts.store.database.url,
            seen.revision,
        )


def _check_revision(revision: object) -> None:
    """Refuse what is no number of a revision.

    :raises TypeError: it is of another type
    """
    if not isinstance(revision, int):
        message = f"A revision is a whole number, such as 41, not {type(revision).__name__}."
        raise TypeError(message)
