"""Where no listener lives, requests ask SQL; none of them waits for it longer than it must."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask

from tests.conftest import Apps, state_of
from tests.support import wait_until
from tests.support.listening import messages
from uwsgi_waffle import WaffleConf, asking
from uwsgi_waffle.host import HostSnapshot, layout
from uwsgi_waffle.host.files import locked
from uwsgi_waffle.process.asking import PATIENCE_SECONDS
from uwsgi_waffle.sql.store import Store
from uwsgi_waffle.values.snapshot import Record

CONFS = {"SIZE": {"default": 1}}
POLL_SECONDS = 0.1
SOON_SECONDS = 15.0
#: What makes each database keep readers waiting, and neither answer nor refuse.
STANDSTILL = {
    "sqlite": "BEGIN EXCLUSIVE",
    "postgresql": "LOCK TABLE waffle_namespace, waffle_setting IN ACCESS EXCLUSIVE MODE",
    "mysql": "LOCK TABLES waffle_namespace WRITE, waffle_setting WRITE",
}

#: Settings of which one fits into the host snapshot, and all together do not.
LARGE_NAMES = [f"TEXT_{number}" for number in range(5)]
LARGE_CONFIG: dict[str, Any] = {
    "WAFFLE_CONFS": {name: {"default": ""} for name in LARGE_NAMES},
    "WAFFLE_POLL_SECONDS": POLL_SECONDS,
}

Hosts = tuple[WaffleConf[Any], Flask, WaffleConf[Any]]


@pytest.fixture
def _silence_is_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the log tell sooner that there is no answer."""
    monkeypatch.setattr(asking, "SILENCE_SECONDS", PATIENCE_SECONDS)


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


@pytest.mark.usefixtures("_silence_is_soon")
def test_a_request_does_not_wait_for_a_database_that_stands_still(
    hosts: Hosts, caplog: pytest.LogCaptureFixture
) -> None:
    """It is served what is known; the answer is for a later one, and nothing is lost."""
    writer, app, _ = hosts
    state = state_of(app)
    with standstill(state.config.database_uri):
        state.serving.check_at[0] = 1.0
        assert [size(app) for _ in range(20)] == [2] * 20
        wait_until(
            lambda: size(app) == 2 and state.reconciler.error is not None,
            SOON_SECONDS,
            "it is noticed",
        )
    writer.update({"SIZE": 3})
    wait_until(lambda: size(app) == 3, SOON_SECONDS, "the change is seen")
    assert len(messages(caplog.records, "has not answered for")) == 1
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


@pytest.mark.usefixtures("_silence_is_soon")
def test_values_that_only_sql_holds_are_not_waited_for_either(
    database_apps: Apps, caplog: pytest.LogCaptureFixture
) -> None:
    """Of settings for which the host snapshot has no room; their callbacks come with them."""
    _, writer = database_apps(**LARGE_CONFIG)
    app, waffle = database_apps(**LARGE_CONFIG)
    told: list[int] = []
    waffle.on_change("TEXT_0")(lambda new: told.append(len(new)))
    app.add_url_rule("/", "size", lambda: f"{len(waffle.settings.TEXT_0)}")
    assert size(app) == 0
    large = "x" * (layout.ROOM_BYTES // 4)
    writer.update(dict.fromkeys(LARGE_NAMES, large))
    with standstill(database_apps.database_uri):
        assert [size(app) for _ in range(20)] == [0] * 20
    wait_until(lambda: size(app) == len(large), SOON_SECONDS, "the values are there")
    wait_until(lambda: told == [len(large)], SOON_SECONDS, "the callback has run")
    assert len(messages(caplog.records, "has not answered for")) == 1


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


def test_a_database_that_is_merely_slow_is_followed_and_not_complained_of(
    hosts: Hosts, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answer comes after the request that asked, for the next one."""
    monkeypatch.setattr(asking, "SILENCE_SECONDS", SOON_SECONDS)
    writer, app, _ = hosts
    read = Store.peek

    def slow(store: Store) -> tuple[str, int]:
        found = read(store)
        threading.Event().wait(2 * PATIENCE_SECONDS)
        return found

    monkeypatch.setattr(Store, "peek", slow)
    for value in (3, 4):
        writer.update({"SIZE": value})
        wait_until(lambda: size(app) == value, SOON_SECONDS, "the change is seen")  # noqa: B023
    assert caplog.records == []


def test_a_question_that_is_never_answered_is_given_up(
    hosts: Hosts, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one on a connection that a firewall has forgotten; the next one has a new one."""
    monkeypatch.setattr(asking, "ABANDON_SECONDS", asking.SILENCE_SECONDS + 1)
    writer, app, _ = hosts
    state = state_of(app)
    read, never = Store.peek, threading.Event()
    held: list[threading.Thread] = []

    def stuck(store: Store) -> tuple[str, int]:
        if store is state.store and not held:
            with store.database.engine.connect() as connection:
                held.append(threading.current_thread())
                never.wait()
                connection.invalidate()
        return read(store)

    monkeypatch.setattr(Store, "peek", stuck)
    writer.update({"SIZE": 3})
    try:
        wait_until(lambda: size(app) == 3, SOON_SECONDS, "the change is seen")
    finally:
        never.set()
        for thread in held:
            thread.join(10)
    assert len(messages(caplog.records, "has not answered for")) == 1
    assert len(messages(caplog.records, "answers again")) == 1


def test_without_threads_to_be_had_requests_ask_for_themselves(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a container allows no more processes, and in what runs at the interpreter's end."""
    writer, app, _ = hosts

    def refuse(_: threading.Thread) -> None:
        message = "can't start new thread"
        raise RuntimeError(message)

    with monkeypatch.context() as limited:
        limited.setattr(threading.Thread, "start", refuse)
        writer.update({"SIZE": 3})
        wait_until(lambda: size(app) == 3, SOON_SECONDS, "the change is seen")
    writer.update({"SIZE": 4})
    wait_until(lambda: size(app) == 4, SOON_SECONDS, "the change is seen")


def test_threads_that_all_need_values_from_sql_each_serve_them(apps: Apps) -> None:
    _, writer = apps(**LARGE_CONFIG)
    app, waffle = apps(**LARGE_CONFIG)
    app.add_url_rule("/", "first", lambda: waffle.settings.TEXT_0[:1])
    ended = threading.Event()

    def serve() -> int:
        client, count = app.test_client(), 0
        while not ended.is_set():
            answer = client.get("/")
            assert answer.status_code == 200
            count += 1
        return count

    with ThreadPoolExecutor(4) as pool:
        serving = [pool.submit(serve) for _ in range(4)]
        try:
            for letter in "abcd":
                writer.update(dict.fromkeys(LARGE_NAMES, letter * (layout.ROOM_BYTES // 4)))
                wait_until(
                    lambda: app.test_client().get("/").text == letter,  # noqa: B023
                    SOON_SECONDS,
                    "the change is seen",
                )
        finally:
            ended.set()
        assert all(one.result() > 8 for one in serving)


def test_a_callback_of_values_that_came_late_may_read_settings(
    database_apps: Apps, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the host has moved on meanwhile, so that the callback asks SQL as well."""
    _, writer = database_apps(**LARGE_CONFIG)
    app, waffle = database_apps(**LARGE_CONFIG)
    app.add_url_rule("/", "first", lambda: waffle.settings.TEXT_0[:1])
    told: list[tuple[str, str]] = []

    @waffle.on_change("TEXT_0")
    def follow(new: str) -> None:
        if new.startswith("a"):
            writer.update({"TEXT_0": "b" * len(new)})
        told.append((new[:1], waffle.settings.TEXT_1[:1]))

    app.test_client().get("/")
    read = Store.read

    def slow(store: Store) -> Record:
        threading.Event().wait(1.5 * PATIENCE_SECONDS)
        return read(store)

    monkeypatch.setattr(Store, "read", slow)
    writer.update(dict.fromkeys(LARGE_NAMES, "a" * (layout.ROOM_BYTES // 4)))
    wait_until(
        lambda: app.test_client().get("/").text == "b" and len(told) == 2,
        SOON_SECONDS,
        "both callbacks have run to their end",
    )
    assert told == [("a", "a"), ("b", "a")]
    assert [record for record in caplog.records if record.levelno > logging.WARNING] == []
