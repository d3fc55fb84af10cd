"""What the tests of a process share: an application, and callbacks that are awaited."""

from __future__ import annotations

import contextlib
import fcntl
import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from pydantic import Field

from tests.conftest import Apps, state_of
from tests.support.waiting import NEVER_SECONDS, SOON_SECONDS
from uwsgi_waffle import WaffleConf, WaffleSettings
from uwsgi_waffle.process import callbacks


class Settings(WaffleSettings):
    """Numbers that a test may set to the same, and a list."""

    A: int = 0
    B: int = 0
    NAMES: list[str] = Field(default_factory=list)


Made = tuple[Flask, WaffleConf[Any]]


@pytest.fixture
def made(apps: Apps) -> Made:
    """Give an application that does not poll during the test."""
    return apps(Settings, WAFFLE_POLL_SECONDS=NEVER_SECONDS)


@contextlib.contextmanager
def forbidden_io(app: Flask, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Collect statements, lock SQLite exclusively, and have every lock of the package fail."""
    state = state_of(app)
    seen: list[str] = []

    class NoLock:
        def __enter__(self) -> None:
            seen.append("a lock")

        def __exit__(self, *_: object) -> None:
            pass

        def acquire(self, **_: object) -> bool:
            seen.append("a lock")
            return False

    engine = state.store.database.engine
    sa.event.listen(engine, "engine_connect", lambda _: seen.append("a connection"))
    state.serving._lock = NoLock()  # type: ignore[assignment]  # noqa: SLF001  replaced for good
    state._queue._lock = NoLock()  # type: ignore[assignment]  # noqa: SLF001
    monkeypatch.setattr(fcntl, "flock", lambda *_: seen.append("a lock"))
    path = state.config.database_uri.removeprefix("sqlite:///")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        yield seen


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have callbacks that take no time awaited however busy the machine is."""
    monkeypatch.setattr(callbacks, "PATIENCE_SECONDS", SOON_SECONDS)
