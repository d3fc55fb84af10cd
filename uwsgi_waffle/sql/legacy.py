"""Importing the table of Flask-WaffleConf 0.3, whose values are pickles in base64.

A pickle is a program. It is run only if all it does is to build scalars and containers; else the
error names what it would call.
"""

from __future__ import annotations

import base64
import binascii
import io
import pickle
import pickletools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NoReturn

import sqlalchemy as sa
from sqlalchemy import exc

from uwsgi_waffle.errors import InvalidSetting, WaffleError
from uwsgi_waffle.values.declaration import Declaration
from uwsgi_waffle.values.settings import WaffleSettings

from .database import Database

__all__ = ["Adoption", "RefusedPickle", "plan_adoption", "read_table", "unpickle"]

#: What a pickle may do: build scalars and containers, and remember what it has built.
_HARMLESS = frozenset(
    (  # noqa: SIM905  # a list would take fifty lines
        "PROTO FRAME STOP MARK POP POP_MARK DUP MEMOIZE "
        "PUT BINPUT LONG_BINPUT GET BINGET LONG_BINGET "
        "NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT "
        "STRING BINSTRING SHORT_BINSTRING UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8 "
        "SHORT_BINBYTES BINBYTES BINBYTES8 BYTEARRAY8 "
        "EMPTY_LIST LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 "
        "EMPTY_DICT DICT SETITEM SETITEMS EMPTY_SET ADDITEMS FROZENSET "
        # Older protocols build a set by its name; `find_class` checks the names.
        "GLOBAL STACK_GLOBAL REDUCE"
    ).split()
)
_NAMEABLE: Mapping[tuple[str, str], type] = {
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
}
#: The most objects that a value may hold. A few bytes can describe billions, as a list that holds
#: another one twice, which holds another one twice, and so on.
_MOST_OBJECTS = 100_000
_MOST_DEPTH = 50


class RefusedPickle(ValueError):
    """A pickle that was not run; the message gives the reason."""


@dataclass(frozen=True, slots=True)
class Adoption:
    """What can be imported.

    :ivar values: name -> value, for the settings to change
    :ivar left: key -> why it is left out
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
    """Return what the rows of a table would change, and which of them are left out and why.

    A name that is not upper case stands for the one that is, as Flask-WaffleConf took any.
    """
    values: dict[str, Any] = {}
    left: dict[str, str] = {}
    for key, text in sorted(rows.items()):
        name = key if key in declaration.names else key.upper()
        if name not in declaration.names:
            left[key] = "it is not declared"
            continue
        if (name in rows and name != key) or name in values:
            left[key] = f"there is {name}, too"
            continue
        try:
            value = unpickle(text)
            declaration.validate(current, {name: value})
        except RefusedPickle as error:
            left[key] = str(error)
        except InvalidSetting as error:
            if any(found.get("loc") for found in error.errors):
                left[key] = f"it is refused: {error}"
            else:  # the settings as a whole are, but may be valid once all values are set
                values[name] = value
        else:
            values[name] = value
    return Adoption(values, left)


def unpickle(text: str) -> Any:
    """Return the value of a pickle in base64, if it holds scalars and containers only.

    :raises RefusedPickle: it does not, and nothing of it was run
    """
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        message = "it is not base64"
        raise RefusedPickle(message) from None
    _check(data)
    try:
        # Python's own unpickler, as the one in C trusts the sizes that a pickle gives.
        value = _Unpickler(io.BytesIO(data)).load()
    except RefusedPickle:
        raise
    except Exception as error:  # noqa: BLE001  # garbage may fail in any way
        message = f"it is not a pickle of a value ({type(error).__name__})"
        raise RefusedPickle(message) from None
    _check_size(value)
    return value


def _check(data: bytes) -> None:
    """Check a pickle without running it.

    :raises RefusedPickle: it does more than build a value
    """
    try:
        operations = {operation.name for operation, _, _ in pickletools.genops(data)}
    except Exception as error:  # noqa: BLE001  # garbage may fail in any way
        message = f"it is not a pickle ({type(error).__name__})"
        raise RefusedPickle(message) from None
    harmful = sorted(operations - _HARMLESS)
    if harmful:
        _refuse(f"its pickle does more than hold a value ({', '.join(harmful)})")


def _hashing(code: bytes, what: slice) -> Callable[[Any], None]:
    """Return an operation of pickles that first counts what it is about to hash.

    :param what: where that stands among the objects which the operation takes
    """
    run: Callable[[Any], None] = pickle._Unpickler.dispatch[code[0]]  # noqa: SLF001  # as below

    def count_and_run(unpickler: _Unpickler) -> None:
        unpickler.count(unpickler.stack[what])
        run(unpickler)

    return count_and_run


class _Unpickler(pickle._Unpickler):  # noqa: SLF001  # the documented class is the one in C
    """Finds sets only, and hashes little: a tuple that holds itself often is hashed as often."""

    stack: list[Any]
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **pickle._Unpickler.dispatch,  # noqa: SLF001  # as the class
        **{
            code[0]: _hashing(code, what)
            for code, what in (
                (pickle.SETITEM, slice(-2, -1)),
                (pickle.SETITEMS, slice(None, None, 2)),
                (pickle.DICT, slice(None, None, 2)),
                (pickle.ADDITEMS, slice(None)),
                (pickle.FROZENSET, slice(None)),
                (pickle.REDUCE, slice(-1, None)),
            )
        },
    }

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self._left = _MOST_OBJECTS

    def count(self, hashed: list[Any]) -> None:
        """Count objects that are about to be hashed.

        :raises RefusedPickle: they are too many, all together
        """
        self._left = _check_size(hashed, self._left)

    def find_class(self, module: str, name: str) -> Any:
        """Return what a pickle names.

        :raises RefusedPickle: it must not name that
        """
        module = "builtins" if module == "__builtin__" else module
        found = _NAMEABLE.get((module, name))
        return _refuse(f"its pickle names {module}.{name}") if found is None else found


def _refuse(message: str) -> NoReturn:
    raise RefusedPickle(message)


def _check_size(value: object, left: int = _MOST_OBJECTS) -> int:
    """Return how many objects may follow a value, which may be small as a pickle only.

    :raises RefusedPickle: it is too large, or endless
    """
    level: list[object] = [value]
    for _ in range(_MOST_DEPTH):
        left -= len(level)
        if left < 0:
            _refuse(f"it holds more than {_MOST_OBJECTS:,} values")
        if not level:
            return left
        level = _next_level(level, left)
    _refuse(f"it is nested more than {_MOST_DEPTH} deep")


def _next_level(level: Iterable[object], most: int) -> list[object]:
    """Return what the containers of a level hold; not much more than *most* objects."""
    found: list[object] = []
    for item in level:
        if isinstance(item, dict):
            found += [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple | set | frozenset):
            found += item
        elif isinstance(item, type):  # that of a set, without which it could not be made
            _refuse("it holds a class")
        if len(found) > most:
            break
    return found
