"""`on_change` and `settings_changed`: what is called, with what, and that it stops nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask, current_app

from tests.conftest import Apps
from tests.process.conftest import Settings
from uwsgi_waffle import UnknownSetting, WaffleConf, WaffleSettings, settings_changed
from uwsgi_waffle.server import concurrency

pytestmark = pytest.mark.usefixtures("patience")


def test_a_callback_is_called_with_as_much_as_it_takes(apps: Apps) -> None:
    app, waffle = apps(Settings)
    seen: list[object] = []

    @waffle.on_change("A")
    def both(old: int, new: int) -> None:
        seen.append((old, new))

    @waffle.on_change("A")
    def new_only(new: int) -> None:
        seen.append(new)

    @waffle.on_change("A")
    def nothing() -> None:
        seen.append("changed")

    @waffle.on_change("A")
    def anything(*arguments: int) -> None:
        seen.append(arguments)

    @waffle.on_change("A", "B")
    def either() -> None:
        seen.append(current_app._get_current_object() is app)  # type: ignore[attr-defined]  # noqa: SLF001

    waffle.update({"A": 1})
    assert seen == [(0, 1), 1, "changed", (0, 1), True]
    seen.clear()
    waffle.update({"A": 1, "B": 2})
    assert seen == [True]
    with pytest.raises(TypeError, match="cannot be called with"):
        waffle.on_change("A")(lambda a, b, c: (a, b, c))


def test_a_change_that_concerns_no_callback_starts_none(
    apps: Apps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which would take a thread, and have requests look for its end."""
    app, waffle = apps(Settings)
    waffle.on_change("A")(lambda: None)
    made = []

    class CountedTask(concurrency.Task):
        def __init__(self, work: Callable[[], None]) -> None:
            super().__init__(work)
            made.append(self)

    monkeypatch.setattr(concurrency, "Task", CountedTask)
    waffle.update({"B": 1})
    assert made == []
    with settings_changed.connected_to(lambda *_, **__: None, app):
        waffle.update({"B": 2})
    assert len(made) == 1


def test_a_callback_of_what_is_not_declared_is_an_error(apps: Apps) -> None:
    _, waffle = apps(Settings)
    with pytest.raises(UnknownSetting, match="Unknown setting C"):
        waffle.on_change("C")
    early: WaffleConf[Any] = WaffleConf(settings=Settings)
    early.on_change("C")(lambda: None)
    with pytest.raises(UnknownSetting):
        early.init_app(apps.flask(host="there"))


def test_the_signal_names_the_app_the_changes_and_the_revision(apps: Apps) -> None:
    app, waffle = apps(Settings)
    other, _ = apps(Settings, host="there", WAFFLE_NAMESPACE="other")
    seen: list[object] = []

    def receive(sender: Flask, changes: object, revision: int) -> None:
        seen.append((sender, dict(changes), revision))  # type: ignore[call-overload]

    def receive_other(sender: Flask, **_: object) -> None:
        seen.append(sender)

    with (
        settings_changed.connected_to(receive, app),
        settings_changed.connected_to(receive_other, other),
    ):
        waffle.update({"A": 1, "B": 2})
        waffle.update({"A": 1})
    assert seen == [(app, {"A": (0, 1), "B": (0, 2)}, 1)]


def test_a_callback_sees_the_new_settings_also_in_a_request(apps: Apps) -> None:
    """The request that changes them keeps the old ones, and a test's override is its own."""
    app, waffle = apps(Settings)
    seen: list[int] = []
    waffle.on_change("A")(lambda: seen.append(waffle.settings.A))

    @app.get("/")
    def view() -> str:
        waffle.update({"A": waffle.settings.A + 1})
        return f"{waffle.settings.A}"

    assert app.test_client().get("/").text == "0"
    with waffle.override(A=50):
        waffle.update({"A": 2})
        assert waffle.settings.A == 50
    assert seen == [1, 2]


class NotAnException(BaseException):
    """Such as `gevent.Timeout`, `GreenletExit` or `asyncio.CancelledError`."""


@pytest.mark.parametrize(
    "error", [ValueError("x"), SystemExit(1), KeyboardInterrupt(), NotAnException()]
)
def test_an_error_in_a_callback_is_logged_and_stops_nothing(
    apps: Apps, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    app, waffle = apps(Settings)
    seen: list[object] = []

    @waffle.on_change("A")
    def fail() -> None:
        raise error

    def fail_too(_: Flask, **__: object) -> None:
        raise error

    def receive(_: Flask, revision: int, **__: object) -> None:
        seen.append(revision)

    waffle.on_change("A")(seen.append)
    with settings_changed.connected_to(fail_too, app), settings_changed.connected_to(receive, app):
        assert waffle.update({"A": 1}).revision == 1
        assert app.test_client().get("/").status_code == 404
    assert seen == [1, 1]
    assert "on_change('A') failed at revision 1" in caplog.text
    assert "a receiver of settings_changed failed at revision 1" in caplog.text
    assert (waffle.settings.A, app.config["A"]) == (1, 1)


def test_a_teardown_that_raises_fails_neither_the_update_nor_a_request(
    apps: Apps, caplog: pytest.LogCaptureFixture
) -> None:
    app, waffle = apps(Settings)
    _, elsewhere = apps(Settings)
    fails = [True]

    @app.teardown_appcontext
    def fail(_: object) -> None:
        if fails:
            raise RuntimeError

    app.add_url_rule("/", "read", lambda: f"{waffle.settings.A}")
    waffle.on_change("A")(lambda: None)
    waffle.update({"A": 1})
    assert "callbacks of revision 1 were cut short" in caplog.text
    elsewhere.update({"A": 2})
    assert waffle.settings.A == 2
    fails.clear()
    assert app.test_client().get("/").text == "2"


def test_a_callback_may_change_a_setting_itself(apps: Apps) -> None:
    app, waffle = apps(Settings)
    seen: list[tuple[str, int, int]] = []

    @waffle.on_change("A")
    def follow(new: int) -> None:
        seen.append(("A", new, waffle.revision))
        done = waffle.update({"B": 10 * new})
        seen.append(("updated", done.revision, waffle.settings.B))

    waffle.on_change("B")(lambda new: seen.append(("B", new, waffle.revision)))
    waffle.update({"A": 1})
    assert seen == [("A", 1, 1), ("updated", 2, 10), ("B", 10, 2)]
    assert app.config["B"] == 10


def test_async_callbacks_run_to_their_end(apps: Apps) -> None:
    """As async views do in Flask; they see the new settings, and the application."""
    app, waffle = apps(Settings)
    seen: list[object] = []

    @waffle.on_change("A")
    async def changed(old: int, new: int) -> None:
        await asyncio.sleep(0)
        seen.append((old, new, waffle.settings.A, current_app.name))

    @settings_changed.connect_via(app)
    async def received(sender: Flask, changes: Any, revision: int) -> None:
        await asyncio.sleep(0)
        seen.append((sender is app, changes, revision))

    waffle.update({"A": 1})
    assert seen == [(0, 1, 1, "tests"), (True, {"A": (0, 1)}, 1)]


def test_an_async_callback_that_raises_is_logged(
    apps: Apps, caplog: pytest.LogCaptureFixture
) -> None:
    _, waffle = apps(Settings)

    @waffle.on_change("A")
    async def fail() -> None:
        raise RuntimeError

    waffle.update({"A": 1})
    assert "on_change('A') failed at revision 1" in caplog.text
    assert "RuntimeError" in caplog.text


def test_a_callback_without_the_name_of_a_setting_is_refused(apps: Apps) -> None:
    """It would never be called; before there is an application, nothing else would tell."""
    waffle = WaffleConf(settings=Settings)
    with pytest.raises(TypeError, match=r"as in @waffle.on_change\('POOL_SIZE'\)"):
        waffle.on_change()
    with pytest.raises(TypeError, match="takes names of settings"):
        waffle.on_change(print)  # type: ignore[arg-type]  # without parentheses
    apps.init(waffle, apps.flask())
    waffle.on_change("A")(print)


def test_a_callback_is_called_for_values_that_a_type_distinguishes(apps: Apps) -> None:
    """Python takes 1 and True for equal, at any depth; each is a revision."""

    class Distinguishing(WaffleSettings):
        ONE: int | bool | float = 1
        MANY: tuple[int | bool, ...] = (1,)

    _, waffle = apps(Distinguishing)
    _, there = apps(Distinguishing, host="there")
    seen: list[object] = []
    for extension in (waffle, there):
        extension.on_change("ONE", "MANY")(seen.append)
    done = waffle.update({"ONE": True, "MANY": [True]})
    assert done.changes == {"ONE": (1, True), "MANY": ((1,), (True,))}
    there.refresh()
    assert list(map(repr, seen)) == ["True", "(True,)"] * 2
    seen.clear()
    assert waffle.update({"ONE": True}).changes == {}
    assert seen == []
