"""What the tests of the pages share: a visitor with a test client, and one with a browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver

from tests.admin.browser import Browser, chromium, fetch_axe
from tests.admin.visitor import Visitor
from tests.apps.admin_pages import Settings, make_app
from tests.conftest import state_of
from tests.support import RedisServer, UwsgiServer
from tests.support.instance import BOOT, Instance
from tests.support.uwsgi_server import Options
from tests.support.waiting import SOON_SECONDS
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
        state = state_of(visitor.app)
        if state.environment is not None:
            state.environment.stop(SOON_SECONDS)
        state.store.database.close()


@pytest.fixture
def visitor(make_visitor: MakeVisitor) -> Visitor:
    """Visit the usual application."""
    return make_visitor()


@pytest.fixture(scope="session")
def axe() -> Path:
    """Give the path of axe."""
    return fetch_axe()


@contextmanager
def pages_server(redis: RedisServer, axe: Path, **environment: str) -> Iterator[UwsgiServer]:
    """Run the pages under uWSGI: four workers and a mule."""
    module: Options = {"module": "tests.apps.admin_pages:app"}
    server = Instance(BOOT, module, redis=redis, separate=False, environment=environment)
    server.environment |= {"TEST_AXE": str(axe), "TEST_INSTANCE": str(server.directory)}
    with server:
        yield server


@pytest.fixture(scope="package")
def server(shared_redis: RedisServer, axe: Path) -> Iterator[UwsgiServer]:
    """Give a server of the usual settings."""
    with pages_server(shared_redis, axe) as running:
        yield running


@pytest.fixture(scope="package")
def driver() -> Iterator[webdriver.Chrome]:
    """Give a running Chromium."""
    with chromium() as running:
        yield running


@pytest.fixture
def browser(driver: webdriver.Chrome, server: UwsgiServer) -> Iterator[Browser]:
    """Give a browser without cookies, at the settings."""
    driver.delete_all_cookies()
    here = Browser(driver, f"http://127.0.0.1:{server.port}")
    here.media()
    here.open()
    driver.delete_all_cookies()
    here.open()
    yield here
    driver.get("about:blank")
