"""What the tests of the pages share: a visitor with a test client, and one with a browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.admin.visitor import Visitor
from tests.apps.admin_pages import Settings, make_app
from tests.conftest import state_of
from uwsgi_waffle import WaffleSettings

MakeVisitor = Callable[..., Visitor]


@pytest.fixture
def make_visitor(tmp_path: Path) -> Iterator[MakeVisitor]:
    """Make visitors, each of an application of its own."""
    made: list[Visitor] = []

    def make(model: type[WaffleSettings] = Settings, **config: Any) -> Visitor:
        config.setdefault("WAFFLE_DATABASE_URI", f"sqlite:///{tmp_path}/waffle.db")
        config.setdefault("WAFFLE_SNAPSHOT_PATH", str(tmp_path / "snapshot"))
        app, waffle = make_app(model, instance_path=str(tmp_path / "instance"), **config)
        made.append(Visitor(app, waffle))
        return made[-1]

    yield make
    for visitor in made:
        state_of(visitor.app).store.database.close()


@pytest.fixture
def visitor(make_visitor: MakeVisitor) -> Visitor:
    """Visit the usual application."""
    return make_visitor()
