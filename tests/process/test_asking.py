"""Without a listener, requests ask SQL; none of them waits for it longer than it must."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest
from flask import Flask

from tests.conftest import Apps, state_of
from tests.host.states import damage
from tests.support.databases import standstill
from tests.support.listening import CONFS, messages
from tests.support.waiting import SOON_SECONDS, wait_until
from uwsgi_waffle import WaffleConf
from uwsgi_waffle.host import turns
from uwsgi_waffle.host.records import HostSnapshot
from uwsgi_waffle.listen import reconcile
from uwsgi_waffle.process import asking
from uwsgi_waffle.process.asking import PATIENCE_SECONDS
from uwsgi_waffle.sql.store import Store
from uwsgi_waffle.values.position import Position

CONFIG: dict[str, Any] = {"WAFFLE_CONFS": CONFS, "WAFFLE_POLL_SECONDS": 0.1}

Hosts = tuple[WaffleConf[Any], Flask]


@pytest.fixture
def _silence_is_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a missing answer logged sooner."""
    monkeypatch.setattr(asking, "SILENCE_SECONDS", PATIENCE_SECONDS)


def make_hosts(apps: Apps) -> Hosts:
    """Return the extension of a host that writes, and an application on another host."""
    _, writer = apps(host="here", **CONFIG)
    app, waffle = apps(host="there", **CONFIG)
    app.add_url_rule("/", "size", lambda: f"{waffle.settings.SIZE}")
    change(writer, app, 2)
    return writer, app


@pytest.fixture
def hosts(apps: Apps) -> Hosts:
    """Give two hosts; no process listens."""
    return make_hosts(apps)


def size(app: Flask) -> int:
    """Return what a request is served."""
    return int(app.test_client().get("/").text)


def change(writer: WaffleConf[Any], app: Flask, value: int) -> None:
    """Change the setting, and return once a request of the other host sees that."""
    writer.update({"SIZE": value})
    wait_until(lambda: size(app) == value, SOON_SECONDS, f"requests see {value}")


@pytest.mark.usefixtures("_silence_is_soon")
def test_a_request_does_not_wait_for_a_database_that_stands_still(
    database_apps: Apps, caplog: pytest.LogCaptureFixture
) -> None:
    """It is served what is known; a later one sees the answer, and nothing is lost."""
    writer, app = make_hosts(database_apps)
    state = state_of(app)
    with standstill(state.config.database_uri):
        state.serving.expect_check()
        assert [size(app) for _ in range(20)] == [2] * 20
        wait_until(
            lambda: size(app) == 2 and state.reconciler.error is not None,
            SOON_SECONDS,
            "it is noticed",
        )
    change(writer, app, 3)
    assert len(messages(caplog.records, "has not answered for")) == 1
    assert len(messages(caplog.records, "answers again")) == 1
    assert [record for record in caplog.records if record.levelno > logging.WARNING] == []


@pytest.mark.usefixtures("_silence_is_soon")
def test_a_damaged_host_snapshot_is_read_from_sql_without_waiting(
    database_apps: Apps, caplog: pytest.LogCaptureFixture
) -> None:
    """Its callbacks come with the values, and may read settings."""
    _, writer = database_apps(**CONFIG)
    app, waffle = database_apps(**CONFIG)
    called: list[tuple[int, int]] = []
    waffle.on_change("SIZE")(lambda new: called.append((new, waffle.settings.SIZE)))
    app.add_url_rule("/", "size", lambda: f"{waffle.settings.SIZE}")
    assert size(app) == 1
    writer.update({"SIZE": 2})
    damage(state_of(app).host)
    with standstill(database_apps.database_uri):
        assert [size(app) for _ in range(20)] == [1] * 20
        wait_until(
            lambda: size(app) == 1 and messages(caplog.records, "has not answered for"),
            SOON_SECONDS,
            "it is logged",
        )
    wait_until(lambda: size(app) == 2, SOON_SECONDS, "the values are there")
    wait_until(lambda: called == [(2, 2)], SOON_SECONDS, "the callback has run")
    assert len(messages(caplog.records, "is damaged")) == 1
    assert len(messages(caplog.records, "has not answered for")) == 1


@pytest.mark.usefixtures("_silence_is_soon")
def test_a_database_that_has_answered_is_not_called_silent(
    hosts: Hosts, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though what was asked of it takes long to pass on, as on a busy machine."""
    writer, app = hosts
    publish, passed_on = HostSnapshot.publish, threading.Event()

    def slow(host: HostSnapshot, *arguments: Any, **options: Any) -> int | None:
        if host is state_of(app).host:
            passed_on.wait(2 * PATIENCE_SECONDS)
        return publish(host, *arguments, **options)

    monkeypatch.setattr(HostSnapshot, "publish", slow)
    change(writer, app, 3)
    assert messages(caplog.records, "has not answered for") == []


def test_a_process_does_not_wait_for_its_own_lock(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that asks SQL for its host holds a lock, which it must not wait for to read."""
    writer, app = hosts
    waited: list[float] = []
    only_reader = turns.only_reader

    def record(host: HostSnapshot, *, wait_seconds: float) -> Any:
        waited.append(wait_seconds)
        return only_reader(host, wait_seconds=wait_seconds)

    for module in (turns, reconcile):
        monkeypatch.setattr(module, "only_reader", record)
    for value in (3, 4, 5):
        change(writer, app, value)
    assert waited
    assert set(waited) == {0}


def test_an_unexpected_error_is_logged_and_ends_no_request(
    hosts: Hosts, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, app = hosts
    with monkeypatch.context() as broken:
        broken.setattr(Store, "peek", lambda _: 1 / 0)
        wait_until(
            lambda: size(app) == 2 and messages(caplog.records, "reading SQL failed"),
            SOON_SECONDS,
            "it is logged",
        )
    change(writer, app, 3)


def test_a_slow_database_is_followed_and_not_complained_of(
    hosts: Hosts, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answer comes after the request that asked, for the next one."""
    monkeypatch.setattr(asking, "SILENCE_SECONDS", SOON_SECONDS)
    writer, app = hosts
    peek = Store.peek

    def slow(store: Store) -> Position:
        found = peek(store)
        threading.Event().wait(2 * PATIENCE_SECONDS)
        return found

    monkeypatch.setattr(Store, "peek", slow)
    change(writer, app, 3)
    assert caplog.records == []


@pytest.mark.usefixtures("_silence_is_soon")
def test_a_question_without_an_answer_is_given_up(
    hosts: Hosts, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a connection that a firewall has forgotten; the next question has a new one."""
    monkeypatch.setattr(asking, "ABANDON_SECONDS", 3 * PATIENCE_SECONDS)
    writer, app = hosts
    state = state_of(app)
    peek, never = Store.peek, threading.Event()
    held: list[threading.Thread] = []

    def stuck(store: Store) -> Position:
        if store is state.store and not held:
            with store.database.engine.connect() as connection:
                held.append(threading.current_thread())
                never.wait()
                connection.invalidate()
        return peek(store)

    monkeypatch.setattr(Store, "peek", stuck)
    try:
        change(writer, app, 3)
    finally:
        never.set()
        for thread in held:
            thread.join(SOON_SECONDS)
    assert len(messages(caplog.records, "has not answered for")) == 1
    assert len(messages(caplog.records, "answers again")) == 1


def test_where_no_thread_can_be_started_requests_ask_for_themselves(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container that allows no more processes, or while the interpreter ends."""
    writer, app = hosts

    def refuse(_: threading.Thread) -> None:
        message = "can't start new thread"
        raise RuntimeError(message)

    with monkeypatch.context() as limited:
        limited.setattr(threading.Thread, "start", refuse)
        change(writer, app, 3)
    change(writer, app, 4)
