"""The tables as Alembic makes and compares them, with what MySQL and MariaDB need.

Migrations may own them (``WAFFLE_AUTO_CREATE = False``). SQLAlchemy takes 10 ms and a megabyte to
import that dialect, so this is imported only where tables are made or compared.
"""

from __future__ import annotations

from sqlalchemy import MetaData
from sqlalchemy.dialects import mysql

from . import declared

__all__ = ["metadata"]

metadata = MetaData()

#: MySQL's own TEXT ends at 64 KiB, and its DATETIME at whole seconds.
_TYPES = (
    (declared.JSON, declared.JSON.with_variant(mysql.LONGTEXT(), "mysql", "mariadb")),
    (declared.INSTANT, declared.INSTANT.with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")),
)
#: Names compare byte by byte everywhere, as they do in Python.
_OPTIONS = {
    f"{dialect}_{option}": value
    for dialect in ("mysql", "mariadb")
    for option, value in (("charset", "utf8mb4"), ("collate", "utf8mb4_bin"), ("engine", "InnoDB"))
}

for _declared in declared.metadata.tables.values():
    _table = _declared.to_metadata(metadata)
    _table.dialect_kwargs.update(_OPTIONS)
    for _column in _table.columns:
        for _type, _with_variant in _TYPES:
            if _column.type is _type:
                _column.type = _with_variant
