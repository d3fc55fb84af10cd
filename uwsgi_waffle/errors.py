"""Everything this package raises on purpose, as one tree with the evidence as attributes.

::

    WaffleError
    ├── ConfigError        a WAFFLE_* key, or a declaration, that cannot work
    ├── UnknownSetting     a name that is not declared
    ├── InvalidSetting     a value that the declaration refuses
    ├── RevisionConflict   another writer came first
    ├── UnknownRevision    a revision that the history does not reach
    ├── StoreUnavailable   the database did not answer
    └── NotConverged       some process is not known to serve a revision whole
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = [
    "ConfigError",
    "InvalidSetting",
    "RevisionConflict",
    "StoreUnavailable",
    "UnknownRevision",
    "UnknownSetting",
    "WaffleError",
]


class WaffleError(Exception):
    """Base of every error that this package raises on purpose."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Have it pass between processes: Python would call the class with the message alone."""
        return _made_again, (type(self), self.args), self.__dict__


def _made_again(kind: type[WaffleError], args: tuple[Any, ...]) -> WaffleError:
    return kind.__new__(kind, *args)


class ConfigError(WaffleError):
    """A configuration key or a declaration that cannot work; raised at start, never later."""

    def __init__(self, message: str, *, key: str | None = None, value: object = None) -> None:
        super().__init__(message)
        #: The ``WAFFLE_*`` key or the name of the setting at fault, where it is one.
        self.key = key
        #: The refused value; a redacted text where it may hold a password.
        self.value = value


class UnknownSetting(WaffleError):
    """One or more names that the application does not declare."""

    def __init__(self, names: Iterable[str], known: Iterable[str]) -> None:
        #: The names at fault, sorted.
        self.names: tuple[str, ...] = tuple(sorted(names))
        #: Every declared name, sorted.
        self.known: tuple[str, ...] = tuple(sorted(known))
        listed = ", ".join(self.names)
        noun = "setting" if len(self.names) == 1 else "settings"
        super().__init__(f"Unknown {noun} {listed}.{suggest(self.names[0], self.known)}")


class InvalidSetting(WaffleError):
    """Values that the declaration refuses; nothing was stored."""

    def __init__(self, errors: Sequence[Mapping[str, Any]]) -> None:
        #: pydantic's errors (``type``, ``loc``, ``msg``, ``input``, ``ctx``); the inputs of secret
        #: settings are left out.
        self.errors: list[dict[str, Any]] = [dict(error) for error in errors]
        super().__init__("; ".join(_line(error) for error in self.errors))


class RevisionConflict(WaffleError):
    """The settings moved on since the caller last looked; nothing was stored."""

    def __init__(self, *, expected: int, actual: int) -> None:
        #: The revision that the caller believed to be the present one.
        self.expected = expected
        #: The present revision.
        self.actual = actual
        super().__init__(
            f"The settings are at revision {actual}, not {expected}: they were changed meanwhile. "
            "Look at the history, then try again with the present revision."
        )


class UnknownRevision(WaffleError):
    """A revision that the history does not hold: not made yet, or pruned."""

    def __init__(self, revision: int, newest: int) -> None:
        #: The revision that was asked for.
        self.revision = revision
        #: The present revision.
        self.newest = newest
        super().__init__(
            f"There is no revision {revision} to roll back to: the present one is {newest}, and "
            "older ones may have been pruned. Look at the history for those that are left."
        )


class StoreUnavailable(WaffleError):
    """The database did not answer, is locked, or lacks its tables; nothing was stored, if known."""

    def __init__(
        self,
        message: str,
        *,
        url: str,
        is_outcome_known: bool = True,
        waited_seconds: float = 0,
        holder: str | None = None,
    ) -> None:
        super().__init__(message)
        #: The database, without its password.
        self.url = url
        #: False where the answer to the commit was lost: the change may have been stored.
        self.is_outcome_known = is_outcome_known
        #: How long the database, or another transaction, was waited for.
        self.waited_seconds = waited_seconds
        #: Who holds the lock that was waited for, in words, as far as the database tells.
        self.holder = holder


def invalid_setting(message: str, *names: str) -> InvalidSetting:
    """Return an error of our own about settings, or about the whole, in the form of pydantic's."""
    places: list[tuple[str, ...]] = [(name,) for name in names] or [()]
    return InvalidSetting([{"type": "value_error", "loc": loc, "msg": message} for loc in places])


def suggest(name: str, known: Iterable[str]) -> str:
    """Return `` Did you mean X?`` for the nearest known name, or nothing where none is near."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {near[0]}?" if near else ""


def _line(error: Mapping[str, Any]) -> str:
    """Return one pydantic error as ``NAME.field: message``."""
    place = ".".join(str(part) for part in error.get("loc", ()))
    return f"{place}: {error['msg']}" if place else str(error["msg"])
