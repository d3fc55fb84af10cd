"""Recording what is sent to SQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import sqlalchemy as sa

__all__ = ["Statements", "recording"]

COMMIT = "COMMIT"


class Statements(list[str]):
    """The statements in their order, without their parameters."""

    @property
    def reads(self) -> int:
        """How often all rows were read, at the cost of one statement each."""
        return sum(s.startswith("SELECT") and "waffle_setting" in s for s in self)


@contextmanager
def recording(engine: sa.Engine, *, commits: bool = False) -> Iterator[Statements]:
    """Record the statements that an engine runs in this process.

    :param commits: record ``COMMIT`` as well
    """
    statements = Statements()

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)

    def note_commit(_connection: object) -> None:
        statements.append(COMMIT)

    events: dict[str, Callable[..., None]] = {"before_cursor_execute": note}
    if commits:
        events["commit"] = note_commit
    for name, listener in events.items():
        sa.event.listen(engine, name, listener)
    try:
        yield statements
    finally:
        for name, listener in events.items():
            sa.event.remove(engine, name, listener)
