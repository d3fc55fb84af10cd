"""Where no listener lives, requests ask SQL; none of them waits for it longer than it must."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask

from tests.conftest import Apps, state_of
from tests.support import wait_until
from tests.support.listening import messages
from uwsgi_waffle import WaffleConf
from uwsgi_waffle.shared import HostSnapshot, layout
from uwsgi_waffle.shared.files import locked
from uwsgi_waffle.store import Store

CONFS = {"SIZE": {"default": 1}}
POLL_SECONDS = 0.1
SOON_SECONDS = 15.0
#: What makes each database keep readers waiting, and neither answer nor refuse.
STANDSTILL = {
    "sqlite": "BEGIN EXCLUSIVE",
    "postgresql": "LOCK TABLE waffle_namespace, waffle_setting IN ACCESS EXCLUSIVE MODE",
    "mysql": "LOCK TABLES waffle_namespace WRITE, waffle_setting WRITE",
}

Hosts = tuple[WaffleConf[Any], Flask, WaffleConf[Any]]


@pytest.fixture
def hosts(database_apps: Apps) -> Hosts:
    """Give a host that writes, and another one; nobody listens."""
    config = {"WAFFLE_CONFS": CONFS, "WAFFLE_POLL_SECONDS": POLL_SECONDS}
    _, writer = database_apps(host="here", **config)
    app, waffle = database_apps(host="there", **config)
    app.add_url_rule("/", "size", lambda: f"{waffle.settings.SIZE}")
    writer.update({"SIZE": 2})
    wait_until(lambda: size(app) == 2, SOON_SECONDS, "the first change is seen")
    return writer, app, waffle


def size(app: Flask) -> int:
    """Return what a request is served."""
    return int(app.test_client().get("/").text)


@contextlib.contextmanager
def standstill(url: str) -> Iterator[None]:
    """Keep everybody from reading the database, without telling them."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.exec_driver_sql(STANDSTILL[engine.dialect.name])
        yield
        if engine.dialect.name == "mysql":
            connection.exec_driver_sql("UNLOCK TABLES")


def test_a_request_does_not_wait_for_a_database_that_stands_still(
    hosts: Hosts, caplog: pytest.LogCaptureFixture
) -> None:
    """It is served what is known; the answer is for a later one, and nothing is lost."""
    writer, app, _ = hosts
    state = state_of(app)
    with standstill(state.config.database_uri):
        state.check_at[0] = 1.0
        assert [size(app) for _ in range(20)] == [2] * 20
        wait_until(
            lambda: size(app) == 2 and state.reconciler.error is not None,
            SOON_SECONDS,
            "it is noticed",
        )
    writer.update({"SIZE": 3})
    wait_until(lambda: size(app) == 3, SOON_SECONDS, "the change is seen")
    assert len(messages(caplog.records, "has not answered within")) == 1
    assert len(messages(caplog.records, "answers again")) == 1
    assert [record for record in caplog.records if record.levelno > logging.WARNING] == []


def test_a_change_is_read_without_waiting_for_oneself(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process whose turn it is holds a lock, which it must not ask itself for."""
    writer, app, _ = hosts
    asked: list[float] = []

    def only_reader(host: HostSnapshot, *, wait_seconds: float) -> Any:
        asked.append(wait_seconds)
        return locked(host.path, ".reader", wait_seconds=wait_seconds)

    monkeypatch.setattr(HostSnapshot, "only_reader", only_reader)
    for value in (3, 4, 5):
        writer.update({"SIZE": value})
        wait_until(lambda: size(app) == value, SOON_SECONDS, "the change is seen")  # noqa: B023
    assert asked
    assert set(asked) == {0}


def test_values_that_only_sql_holds_are_not_waited_for_either(
    database_apps: Apps, caplog: pytest.LogCaptureFixture
) -> None:
    """Of settings for which the host snapshot has no room; their callbacks come with them."""
    names = [f"TEXT_{number}" for number in range(5)]
    config: dict[str, Any] = {
        "WAFFLE_CONFS": {name: {"default": ""} for name in names},
        "WAFFLE_POLL_SECONDS": POLL_SECONDS,
    }
    _, writer = database_apps(**config)
    app, waffle = database_apps(**config)
    told: list[int] = []
    waffle.on_change("TEXT_0")(lambda new: told.append(len(new)))
    app.add_url_rule("/", "size", lambda: f"{len(waffle.settings.TEXT_0)}")
    assert size(app) == 0
    large = "x" * (layout.ROOM_BYTES // 4)
    writer.update(dict.fromkeys(names, large))
    with standstill(database_apps.database_uri):
        assert [size(app) for _ in range(20)] == [0] * 20
    wait_until(lambda: size(app) == len(large), SOON_SECONDS, "the values are there")
    wait_until(lambda: told == [len(large)], SOON_SECONDS, "the callback has run")
    assert len(messages(caplog.records, "has not answered within")) == 1


def test_what_fails_unforeseen_is_logged_and_ends_no_request(
    hosts: Hosts, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, app, _ = hosts
    with monkeypatch.context() as broken:
        broken.setattr(Store, "peek", lambda _: 1 / 0)
        wait_until(
            lambda: size(app) == 2 and messages(caplog.records, "reading SQL failed"),
            SOON_SECONDS,
            "it is said",
        )
    writer.update({"SIZE": 3})
    wait_until(lambda: size(app) == 3, SOON_SECONDS, "the change is seen")
