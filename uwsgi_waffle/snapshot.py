"""Immutable snapshots: one revision of the settings, decoded, validated and never a mix.

A :class:`Record` is what storage holds (JSON texts); a :class:`Snapshot` is what a process serves.
:class:`Holder` keeps the present one and moves only forwards.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from pydantic import ValidationError
from pydantic_core import from_json

from .cipher import Cipher, Undecipherable
from .settings import Declaration, WaffleSettings

__all__ = ["NO_LINEAGE", "Holder", "Problem", "Record", "Snapshot", "build"]

#: Lineage of a namespace that nobody has written to yet.
NO_LINEAGE = ""


@dataclass(frozen=True, slots=True)
class Record:
    """One revision as it is stored.

    :ivar lineage: 16 hexadecimal digits made with the namespace; ``""`` before the first write
    :ivar revision: 0 before the first write
    :ivar rows: setting name -> stored text, for those that differ from their default; ``None``
        where only the revision is known and the rows must be read from SQL
    """

    lineage: str = NO_LINEAGE
    revision: int = 0
    rows: Mapping[str, str] | None = field(default_factory=dict, repr=False)  # secrets among them

    def supersedes(self, lineage: str, revision: int) -> bool:
        """Return whether a holder of that lineage and revision should take this record.

        Within a lineage revisions order. Another lineage is another database, so it wins. A
        database without any was emptied, which says nothing of what it ought to hold.
        """
        if self.lineage == lineage:
            return self.revision > revision
        return self.lineage != NO_LINEAGE

    def reaches(self, lineage: str, revision: int) -> bool:
        """Return whether this record is that one, or a later one of its lineage."""
        return self.lineage == lineage and self.revision >= revision


@dataclass(frozen=True, slots=True)
class Problem:
    """A stored value that this process cannot use.

    :ivar name: the setting, ``None`` where the settings as a whole were refused
    :ivar reason: why, without the value of a secret
    :ivar serving: what is served in its place: ``"last good value"`` or ``"default"``
    """

    name: str | None
    reason: str
    serving: str

    def __str__(self) -> str:
        subject = f"The stored value of {self.name}" if self.name else "The stored settings"
        return f"{subject} cannot be used ({self.reason}); serving the {self.serving}."


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One revision as a process serves it.

    :ivar settings: the typed values
    :ivar values: the same as a mapping, for ``app.config``
    :ivar undeclared: names stored but not declared by this release of the application
    """

    lineage: str
    revision: int
    settings: WaffleSettings
    values: Mapping[str, object] = field(repr=False)  # secrets among them
    problems: tuple[Problem, ...] = ()
    undeclared: tuple[str, ...] = ()


def build(
    declaration: Declaration, cipher: Cipher, record: Record, last_good: Snapshot | None = None
) -> Snapshot:
    """Decode and validate a record; never fails, as a bad value must not stop a process.

    A value that cannot be used gives way to the last good one, or to the default at first start,
    and is named in ``problems``.
    """
    rows = record.rows or {}
    texts: dict[str, str] = {}
    problems: dict[str | None, str] = {}
    for name in declaration.names:
        if name in rows:
            try:
                texts[name] = _plain_json(cipher.open(rows[name]))
            except (Undecipherable, ValueError, RecursionError) as error:
                problems[name] = _reason(declaration, name, error)
    settings = _decode(declaration, texts, problems, last_good)
    substitute = "last good value" if last_good is not None else "default"
    return Snapshot(
        lineage=record.lineage,
        revision=record.revision,
        settings=settings,
        values=MappingProxyType(dict(settings)),
        problems=tuple(Problem(name, reason, substitute) for name, reason in problems.items()),
        undeclared=tuple(sorted(rows.keys() - set(declaration.names))),
    )


def _decode(
    declaration: Declaration,
    texts: dict[str, str],
    problems: dict[str | None, str],
    last_good: Snapshot | None,
) -> WaffleSettings:
    """Return the settings that the texts make, giving up the bad ones one after another."""
    fallback = last_good.settings if last_good is not None else declaration.defaults
    while True:
        kept = {name: getattr(fallback, name) for name in problems if name is not None}
        try:
            settings = declaration.from_json(texts)
            # Only now may typed values join: from_json reads JSON.
            return declaration.validate(settings, kept) if kept else settings
        except ValidationError as error:
            bad = {str(item["loc"][0]) for item in error.errors() if item["loc"]} & texts.keys()
            for finding in declaration.describe(error):
                if finding["loc"]:
                    problems.setdefault(str(finding["loc"][0]), finding["msg"])
            if not bad:
                problems[None] = str(declaration.describe(error)[0]["msg"])
                return fallback
            for name in bad:
                del texts[name]
        except Exception as error:  # noqa: BLE001  # an application's validator may raise anything
            problems[None] = declaration.raised(error)
            return fallback


def _plain_json(text: str) -> str:
    """Return a text that is JSON by itself, and so cannot change the meaning of its neighbours.

    :raises ValueError: it is not
    """
    from_json(text, allow_inf_nan=False)
    return text


def _reason(declaration: Declaration, name: str, error: Exception) -> str:
    """Return why a stored text is unusable; of a secret, only what cannot repeat it."""
    if isinstance(error, Undecipherable):
        return str(error)
    return "it is not JSON" if name in declaration.secrets else f"it is not JSON: {error}"


class Holder:
    """The snapshot a process serves; swapped as one reference, never backwards."""

    def __init__(self, first: Snapshot, on_swap: Callable[[Snapshot, Snapshot], None]) -> None:
        """Hold *first*; call *on_swap* with the old and the new snapshot at each swap, in order.

        :param on_swap: must be quick and must not read from here; it runs under the lock
        """
        self.current = first
        self._on_swap = on_swap
        self._lock = threading.Lock()

    def after_fork(self) -> None:
        """Forget a lock that another thread may have held at the fork."""
        self._lock = threading.Lock()

    def swap(self, snapshot: Snapshot) -> bool:
        """Serve *snapshot* unless what is served is as new, and return whether it is served now."""
        with self._lock:
            old = self.current
            if old.lineage == snapshot.lineage and snapshot.revision <= old.revision:
                return False
            self.current = snapshot
            self._on_swap(old, snapshot)
            return True
