"""Immutable snapshots: one state of the settings, decoded and validated, never a mix of two.

A :class:`Record` is what SQL and the host snapshot hold (JSON texts); a :class:`Snapshot` is what a
process serves.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from pydantic import ValidationError
from pydantic_core import from_json

from uwsgi_waffle.errors import InvalidSetting

from .canonical import FIXED
from .cipher import Cipher, Undecipherable
from .declaration import Declaration
from .position import NOWHERE, Position
from .settings import WaffleSettings

__all__ = ["Delta", "Record", "RefusedValue", "Snapshot", "build"]


@dataclass(frozen=True, slots=True)
class Record:
    """One state of the settings as it is stored.

    :ivar position: which one; nowhere before the namespace exists
    :ivar rows: setting name -> stored text, for those that differ from their default
    :ivar keys: what signs the messages between hosts; the first signs, all are accepted
    :ivar before: the lineages that a host was at before this one, each with its keys, as other
        hosts may still be there; SQL does not hold them
    """

    position: Position = NOWHERE
    rows: Mapping[str, str] = field(default_factory=dict, repr=False)  # secrets among them
    keys: tuple[str, ...] = field(default=(), repr=False)
    before: tuple[tuple[str, ...], ...] = field(default=(), repr=False)

    @property
    def revision(self) -> int:
        """The revision of :attr:`position`."""
        return self.position.revision

    def changed(self, position: Position, rows: Mapping[str, str | None]) -> Record:
        """Return the record after a change, at a position; a row that is ``None`` is deleted."""
        stored = {n: text for n, text in {**self.rows, **rows}.items() if text is not None}
        return Record(position, stored, self.keys)


@dataclass(frozen=True, slots=True)
class Delta:
    """What one commit changed.

    :ivar before: the position of the record that it changed
    :ivar position: that of the record that it made
    :ivar rows: setting name -> stored text, ``None`` for the default
    """

    before: Position
    position: Position
    rows: Mapping[str, str | None] = field(repr=False)

    def apply(self, record: Record) -> Record | None:
        """Return the record that the commit made, ``None`` where *record* is not the one before."""
        return record.changed(self.position, self.rows) if record.position == self.before else None

    @classmethod
    def between(cls, before: Record, after: Record, open_names: Container[str]) -> Delta | None:
        """Return what leads from one record to a later one, with whatever came in between.

        :param open_names: settings that are no secrets; the text of any other must be encrypted
        :return: ``None`` where it is not certain, or must not be told
        """
        is_certain = before.position.stamp and after.position.stamp and before.keys == after.keys
        if not is_certain or before.position.lineage != after.position.lineage:
            return None
        old, new = before.rows, after.rows
        changed = {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}
        rows = {name: new.get(name) for name in changed}
        if not all(
            text is None or name in open_names or Cipher.is_sealed(text)
            for name, text in rows.items()
        ):
            return None
        return cls(before.position, after.position, rows)


@dataclass(frozen=True, slots=True)
class RefusedValue:
    """A stored value that a process does not serve, as its release refuses it.

    :ivar name: the setting, ``""`` where the settings as a whole are refused
    :ivar serving: what is served instead: ``"last good value"`` or ``"default"``
    :ivar reason: why, without the value of a secret
    """

    name: str
    serving: str
    reason: str

    def __str__(self) -> str:
        subject = f"The stored value of {self.name}" if self.name else "The stored settings"
        return f"{subject} cannot be used ({self.reason}); serving the {self.serving}."


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One state of the settings as a process serves it.

    :ivar position: which one
    :ivar settings: the typed values
    :ivar values: the same as a mapping, for ``app.config``
    :ivar undeclared: names stored but not declared by this release of the application
    :ivar record: the stored state that it was made of
    :ivar changeable: the settings whose values an application could change in place
    """

    position: Position
    settings: WaffleSettings
    values: Mapping[str, object] = field(repr=False)  # secrets among them
    refused: tuple[RefusedValue, ...] = ()
    undeclared: tuple[str, ...] = ()
    record: Record = field(default=Record(), repr=False, compare=False)
    changeable: frozenset[str] = field(default=frozenset(), repr=False, compare=False)

    @property
    def revision(self) -> int:
        """The revision of :attr:`position`."""
        return self.position.revision


def build(
    declaration: Declaration,
    cipher: Cipher,
    record: Record,
    last_good: Snapshot | None = None,
    decoded: Mapping[str, object] = MappingProxyType({}),
) -> Snapshot:
    """Decode and validate a record; never fails, as a bad value must not stop a process.

    In the place of a value that cannot be used stands the last good one, or the default at the
    first start; ``refused`` names it. Of the last good ones, only what has another text is decoded
    again, where the declaration allows that.

    :param decoded: values of the record that the caller has decoded
    """
    if last_good is not None and not last_good.refused:
        made = _build_on(declaration, cipher, record, last_good, decoded)
        if made is not None:
            return made
    return _build_anew(declaration, cipher, record, last_good)


def _build_on(
    declaration: Declaration,
    cipher: Cipher,
    record: Record,
    last_good: Snapshot,
    decoded: Mapping[str, object],
) -> Snapshot | None:
    """Decode what differs from the last good snapshot; ``None`` where all must be looked at."""
    rows, old, defaults = record.rows, last_good.record.rows, declaration.default_json
    differing = {name for name, text in rows.items() if old.get(name) != text}
    if len(rows) != len(old) + sum(name not in old for name in differing):
        differing |= old.keys() - rows.keys()
    declared = {name for name in differing if name in defaults}
    values = {name: value for name, value in decoded.items() if type(value) in FIXED}
    again = (declared | last_good.changeable) - values.keys()
    if not declaration.fields.are_worth_it(len(again)):
        return None
    try:
        for name in again:
            text = _plain_json(cipher.open(rows[name])) if name in rows else defaults[name]
            values[name] = declaration.fields.validator(name).validate_json(text)
    except Exception:  # noqa: BLE001  # one is refused; the whole finds out which, and why
        return None
    settings = declaration.fields.replace(last_good.settings, values)
    return Snapshot(
        position=record.position,
        settings=settings,
        values=MappingProxyType(declaration.values(settings)),
        undeclared=last_good.undeclared
        if len(declared) == len(differing)
        else _undeclared(declaration, record),
        record=record,
        changeable=(last_good.changeable - values.keys()) | _changeable(values.items()),
    )


def _build_anew(
    declaration: Declaration, cipher: Cipher, record: Record, last_good: Snapshot | None
) -> Snapshot:
    """Decode and validate a whole record."""
    rows = record.rows
    texts: dict[str, str] = {}
    refused: dict[str, str] = {}
    for name in declaration.names:
        if name in rows:
            try:
                texts[name] = _plain_json(cipher.open(rows[name]))
            except (Undecipherable, ValueError, RecursionError) as error:
                refused[name] = _reason(declaration, name, error)
    settings = _decode(declaration, texts, refused, last_good)
    substitute = "last good value" if last_good is not None else "default"
    values = declaration.values(settings)
    return Snapshot(
        position=record.position,
        settings=settings,
        values=MappingProxyType(values),
        refused=tuple(RefusedValue(name, substitute, why) for name, why in refused.items()),
        undeclared=_undeclared(declaration, record),
        record=record,
        changeable=_changeable(values.items()),
    )


def _undeclared(declaration: Declaration, record: Record) -> tuple[str, ...]:
    return tuple(sorted(record.rows.keys() - declaration.default_json.keys()))


def _changeable(values: Iterable[tuple[str, object]]) -> frozenset[str]:
    return frozenset(name for name, value in values if type(value) not in FIXED)


def _decode(
    declaration: Declaration,
    texts: dict[str, str],
    refused: dict[str, str],
    last_good: Snapshot | None,
) -> WaffleSettings:
    """Return the settings that the texts make, without those that are refused."""
    fallback = last_good.settings if last_good is not None else declaration.defaults
    while True:
        kept = {name: getattr(fallback, name) for name in refused if name}
        try:
            settings = declaration.from_json(texts)
            # Typed values are added now, as from_json reads JSON only.
            return declaration.validate(settings, kept) if kept else settings
        except ValidationError as error:
            bad = {str(item["loc"][0]) for item in error.errors() if item["loc"]} & texts.keys()
            for finding in declaration.refusals.describe(error):
                if finding["loc"]:
                    refused.setdefault(str(finding["loc"][0]), finding["msg"])
            if not bad:
                refused[""] = str(declaration.refusals.describe(error)[0]["msg"])
                return fallback
            for name in bad:
                del texts[name]
        except InvalidSetting as error:  # the whole refuses what is kept of the last good values
            refused[""] = str(error)
            return fallback
        except Exception as error:  # noqa: BLE001  # an application's validator may raise anything
            refused[""] = declaration.refusals.raised(error)
            return fallback


def _plain_json(text: str) -> str:
    """Return the text, after a check that it is JSON, as it is put together with others.

    :raises ValueError: it is not JSON
    """
    from_json(text, allow_inf_nan=False)
    return text


def _reason(declaration: Declaration, name: str, error: Exception) -> str:
    """Return why a stored text cannot be used; of a secret, without any part of it."""
    if isinstance(error, Undecipherable):
        return str(error)
    return "it is not JSON" if name in declaration.secrets else f"it is not JSON: {error}"
