"""Taking over the table of Flask-WaffleConf 0.3, whose values are pickles in base64.

A pickle is a program. Only one that does nothing but put together scalars and containers is run;
of any other it is said what it would have called.
"""

from __future__ import annotations

import base64
import binascii
import io
import pickle
import pickletools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import sqlalchemy as sa
from sqlalchemy import exc

from uwsgi_waffle.errors import InvalidSetting, WaffleError
from uwsgi_waffle.values.settings import Declaration, WaffleSettings

from .database import Database

__all__ = ["Adoption", "RefusedPickle", "plan_adoption", "read_table", "unpickle"]

#: What a pickle may do: make scalars and containers of them, and remember what it has made.
_HARMLESS = frozenset(
    (  # noqa: SIM905  # a list of them would be fifty lines
        "PROTO FRAME STOP MARK POP POP_MARK DUP MEMOIZE "
        "PUT BINPUT LONG_BINPUT GET BINGET LONG_BINGET "
        "NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT "
        "STRING BINSTRING SHORT_BINSTRING UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8 "
        "SHORT_BINBYTES BINBYTES BINBYTES8 BYTEARRAY8 "
        "EMPTY_LIST LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 "
        "EMPTY_DICT DICT SETITEM SETITEMS EMPTY_SET ADDITEMS FROZENSET "
        # Older protocols know a set by its name only; `find_class` sees to what may be named.
        "GLOBAL STACK_GLOBAL REDUCE"
    ).split()
)
_NAMEABLE: Mapping[tuple[str, str], type] = {
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
}
#: The most objects a value may have. A few bytes can describe a list with as many as there are
#: atoms, by naming the same list twice again and again.
_MOST_OBJECTS = 100_000
_MOST_DEPTH = 50


class RefusedPickle(ValueError):
    """A pickle that is not run; the message says why."""


@dataclass(frozen=True, slots=True)
class Adoption:
    """What can be taken over.

    :ivar values: name -> value, for the settings to change
    :ivar left: key -> why it is left
    """

    values: Mapping[str, Any] = field(repr=False)  # secrets among them
    left: Mapping[str, str]


def read_table(database: Database, table: str, key: str, value: str) -> dict[str, str]:
    """Return the rows of a table of Flask-WaffleConf: key -> base64 text.

    :param table: its name, after a dot that of its schema
    :param key: the name of the column of keys
    :param value: the name of the column of values
    :raises WaffleError: the table cannot be read
    """
    schema, _, name = table.rpartition(".")
    columns: tuple[sa.ColumnClause[str], ...] = sa.column(key), sa.column(value)
    statement = sa.select(*columns).select_from(sa.table(name, *columns, schema=schema or None))
    try:
        with database.engine.connect() as connection:
            return {str(row[0]): str(row[1]) for row in connection.execute(statement)}
    except exc.SQLAlchemyError as error:
        why = " ".join(str(getattr(error, "orig", None) or error).split())
        message = (
            f"The table {table} with the columns {key} and {value} cannot be read in "
            f"{database.url}: {why}. Name it with --table, --key-column and --value-column."
        )
        raise WaffleError(message) from error


def plan_adoption(
    declaration: Declaration, current: WaffleSettings, rows: Mapping[str, str]
) -> Adoption:
    """Return what the rows of a table would change, and what is left of them and why."""
    values: dict[str, Any] = {}
    left: dict[str, str] = {}
    for key, text in sorted(rows.items()):
        if key not in declaration.names:
            left[key] = "it is not declared"
            continue
        try:
            value = unpickle(text)
            declaration.validate(current, {key: value})
        except RefusedPickle as error:
            left[key] = str(error)
        except InvalidSetting as error:
            if any(found.get("loc") for found in error.errors):
                left[key] = f"it is refused: {error}"
            else:  # the whole is, which may be right once all values are together
                values[key] = value
        else:
            values[key] = value
    return Adoption(values, left)


def unpickle(text: str) -> Any:
    """Return the value of a pickle in base64, if it is made of scalars and containers only.

    :raises RefusedPickle: it is not, and nothing of it was run
    """
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        message = "it is not base64"
        raise RefusedPickle(message) from None
    _check(data)
    try:
        # Python's own unpickler: the one in C trusts the sizes that a pickle speaks of.
        value = _Unpickler(io.BytesIO(data)).load()
    except RefusedPickle:
        raise
    except Exception as error:  # noqa: BLE001  # what is no pickle fails in any way
        message = f"it is not a pickle of a value ({type(error).__name__})"
        raise RefusedPickle(message) from None
    _check_size(value)
    return value


def _check(data: bytes) -> None:
    """Look through a pickle without running it.

    :raises RefusedPickle: it does more than put a value together
    """
    try:
        operations = {operation.name for operation, _, _ in pickletools.genops(data)}
    except Exception as error:  # noqa: BLE001  # what is no pickle fails in any way
        message = f"it is not a pickle ({type(error).__name__})"
        raise RefusedPickle(message) from None
    harmful = sorted(operations - _HARMLESS)
    if harmful:
        _refuse(f"its pickle does more than hold a value ({', '.join(harmful)})")


class _Unpickler(pickle._Unpickler):  # noqa: SLF001  # the documented class is the one in C
    """Names nothing but sets."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what a pickle names, if it may.

        :raises RefusedPickle: it may not
        """
        module = "builtins" if module == "__builtin__" else module
        found = _NAMEABLE.get((module, name))
        return _refuse(f"its pickle names {module}.{name}") if found is None else found


def _refuse(message: str) -> NoReturn:
    raise RefusedPickle(message)


def _check_size(value: object) -> None:
    """Refuse what is small as a pickle, but large or endless as a value.

    :raises RefusedPickle: it is
    """
    left = _MOST_OBJECTS
    level: list[object] = [value]
    for _ in range(_MOST_DEPTH):
        left -= len(level)
        if left < 0:
            _refuse(f"it holds more than {_MOST_OBJECTS:,} values")
        if not level:
            return
        level = _next_level(level, left)
    _refuse(f"it is nested more than {_MOST_DEPTH} deep")


def _next_level(level: Iterable[object], most: int) -> list[object]:
    """Return what is in the containers of a level; a little more than *most* at most."""
    found: list[object] = []
    for item in level:
        if isinstance(item, dict):
            found += [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple | set | frozenset):
            found += item
        if len(found) > most:
            break
    return found
