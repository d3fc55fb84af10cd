"""Overrides: by decorator and by block, in each context its own, in no store."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask import Flask, Response, stream_with_context

from tests.conftest import Apps, state_of
from tests.process.conftest import Made, Settings, forbidden_io
from tests.support.waiting import NEVER_SECONDS, SOON_SECONDS
from uwsgi_waffle import InvalidSetting, UnknownSetting, WaffleConf


def test_an_override_holds_in_its_context_only_and_is_stored_nowhere(made: Made) -> None:
    app, waffle = made
    app.add_url_rule("/", "read", lambda: f"{waffle.settings.A} {waffle.settings.B}")
    elsewhere: list[int] = []
    with waffle.override(A=5):
        with waffle.override(B=6):
            assert app.test_client().get("/").text == "5 6"
            thread = threading.Thread(target=lambda: elsewhere.append(waffle.settings.A))
            thread.start()
            thread.join()
        assert (waffle.settings.A, waffle.settings.B, waffle.revision) == (5, 0, 0)
        assert app.config["A"] == 0
        waffle.update({"B": 9})
        assert app.test_client().get("/").text == "5 9"
    assert (elsewhere, waffle.settings.A) == ([0], 0)
    assert [change.name for change in waffle.history()] == ["B"]


def test_an_override_within_a_request_ends_with_its_block(made: Made) -> None:
    app, waffle = made

    @app.get("/")
    def view() -> str:
        with waffle.override(A=5):
            inside = waffle.settings.A
        return f"{inside} {waffle.settings.A}"

    @app.get("/async")
    async def async_view() -> str:
        return view()

    @app.get("/streamed")
    def streamed_view() -> Response:
        def parts() -> Iterator[str]:
            with waffle.override(A=5):
                yield f"{waffle.settings.A} "
            yield f"{waffle.settings.A}"

        return Response(stream_with_context(parts()))

    client = app.test_client()
    assert {client.get(path).text for path in ("/", "/async", "/streamed")} == {"5 0"}


def test_an_override_holds_in_the_context_that_a_test_client_keeps(made: Made) -> None:
    app, waffle = made
    app.add_url_rule("/", "read", lambda: f"{waffle.settings.A}")
    with app.test_client() as client:
        assert client.get("/").text == "0"
        with waffle.override(A=5):
            assert waffle.settings.A == 5
        assert waffle.settings.A == 0


def test_a_decorated_function_sees_the_override_each_time(made: Made) -> None:
    _, waffle = made

    @waffle.override(A=5)
    def read(more: int = 0) -> int:
        """Read."""
        return int(waffle.settings.A + more)

    assert (read(), waffle.settings.A, read(more=2)) == (5, 0, 7)
    assert (read.__name__, read.__doc__) == ("read", "Read.")
    assert list(inspect.signature(read).parameters) == ["more"]


def test_a_decorated_async_function_sees_the_override_in_its_body(made: Made) -> None:
    _, waffle = made

    @waffle.override(A=5)
    async def read() -> int:
        await asyncio.sleep(0)
        return int(waffle.settings.A)

    assert inspect.iscoroutinefunction(read)
    assert (asyncio.run(read()), waffle.settings.A) == (5, 0)


def test_a_decorated_generator_sees_the_override_to_its_end(made: Made) -> None:
    _, waffle = made

    @waffle.override(A=5)
    def read() -> Iterator[int]:
        yield waffle.settings.A
        yield waffle.settings.A

    assert inspect.isgeneratorfunction(read)
    assert (list(read()), waffle.settings.A) == ([5, 5], 0)


def test_a_decorated_async_generator_sees_the_override_to_its_end(made: Made) -> None:
    _, waffle = made

    @waffle.override(A=5)
    async def read() -> AsyncIterator[int]:
        yield waffle.settings.A
        await asyncio.sleep(0)
        yield waffle.settings.A

    async def all_of_it() -> list[int]:
        return [*[item async for item in read()], waffle.settings.A]

    assert inspect.isasyncgenfunction(read)
    assert asyncio.run(all_of_it()) == [5, 5, 0]


def test_a_class_is_not_decorated(made: Made) -> None:
    _, waffle = made
    with pytest.raises(TypeError, match=r"Names is a class\. Decorate its methods"):
        waffle.override(A=5)(type("Names", (), {}))


def test_one_override_is_used_again_within_itself_and_in_threads(made: Made) -> None:
    _, waffle = made
    override = waffle.override(A=5)
    barrier = threading.Barrier(4)

    def use(_: int) -> list[int]:
        before = waffle.settings.A
        with override:
            barrier.wait(SOON_SECONDS)
            with override:
                inside = waffle.settings.A
            still = waffle.settings.A
            barrier.wait(SOON_SECONDS)
        return [before, inside, still, waffle.settings.A]

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(use, range(4))) == [[0, 5, 5, 0]] * 4
    with override:
        assert waffle.settings.A == 5
    assert waffle.settings.A == 0


def test_tasks_of_one_loop_override_apart(made: Made) -> None:
    _, waffle = made

    async def use(value: int) -> list[int]:
        seen = []
        with waffle.override(A=value):
            for _ in range(3):
                await asyncio.sleep(0)
                seen.append(waffle.settings.A)
        return [*seen, waffle.settings.A]

    async def together() -> list[list[int]]:
        return list(await asyncio.gather(*map(use, range(1, 9))))

    assert asyncio.run(together()) == [[n, n, n, 0] for n in range(1, 9)]


def test_overrides_may_end_in_the_order_in_which_they_began(made: Made) -> None:
    app, waffle = made

    def values() -> Iterator[tuple[int, int]]:
        first, second = waffle.override(A=5), waffle.override(B=6)
        first.__enter__()
        second.__enter__()
        yield waffle.settings.A, waffle.settings.B
        first.__exit__()
        yield waffle.settings.A, waffle.settings.B
        second.__exit__()
        yield waffle.settings.A, waffle.settings.B

    expected = [(5, 6), (0, 6), (0, 0)]
    assert list(values()) == expected
    app.add_url_rule("/", "read", lambda: list(map(list, values())))
    assert app.test_client().get("/").json == list(map(list, expected))
    assert app.test_client().get("/").json == list(map(list, expected))


def test_an_override_that_another_context_closes_ends_there_quietly(made: Made) -> None:
    """A generator that is collected is closed wherever that happens to be."""
    _, waffle = made

    @waffle.override(A=5)
    def read() -> Iterator[int]:
        yield waffle.settings.A

    started: list[Iterator[int]] = []

    def start() -> None:
        started.append(read())
        assert next(started[0]) == 5

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    started[0].close()  # type: ignore[attr-defined]  # a generator
    assert waffle.settings.A == 0


def test_a_decorator_may_come_before_the_application(apps: Apps) -> None:
    """An application factory makes one for each test, and not all are collected at once."""
    waffle: WaffleConf[Any] = WaffleConf(settings=Settings)

    @waffle.override(A=5)
    def read() -> str:
        app = apps.flask(WAFFLE_POLL_SECONDS=NEVER_SECONDS)
        apps.init(waffle, app)
        with app.app_context():
            assert waffle.settings.A == 5
        app.add_url_rule("/", "read", lambda: f"{waffle.settings.A}")
        return app.test_client().get("/").text

    assert [read() for _ in range(3)] == ["5"] * 3


def test_a_name_that_the_application_does_not_declare_is_refused_by_its_request(apps: Apps) -> None:
    waffle: WaffleConf[Any] = WaffleConf(settings=Settings)
    with waffle.override(C=1):
        app = apps.flask(WAFFLE_POLL_SECONDS=NEVER_SECONDS)
        apps.init(waffle, app)
        with pytest.raises(UnknownSetting, match="C"):
            app.test_client().get("/")


def test_a_refused_override_leaves_those_around_it(made: Made) -> None:
    _, waffle = made
    with waffle.override(A=5):
        with pytest.raises(InvalidSetting), waffle.override(B="many"):
            pass
        with pytest.raises(UnknownSetting), waffle.override(C=1):
            pass
        assert (waffle.settings.A, waffle.settings.B) == (5, 0)
    assert waffle.settings.A == 0


def test_a_request_follows_newer_settings_within_an_override(made: Made) -> None:
    app, waffle = made

    @app.get("/")
    def read() -> list[int]:
        seen = []
        with waffle.override(A=5):
            waffle.update({"B": 1})
            seen += [waffle.settings.A, waffle.settings.B]
            waffle.follow()
            seen += [waffle.settings.A, waffle.settings.B]
        return [*seen, waffle.settings.A, waffle.settings.B]

    assert app.test_client().get("/").json == [5, 0, 5, 1, 0, 1]


def test_an_override_touches_no_store_no_redis_and_no_lock(
    apps: Apps, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, waffle = apps(Settings, WAFFLE_POLL_SECONDS=NEVER_SECONDS)
    app.add_url_rule("/", "read", lambda: f"{waffle.settings.A}")
    client = app.test_client()
    client.get("/")
    monkeypatch.setattr(state_of(app).bus, "publish", lambda *_: pytest.fail("an announcement"))
    before = bytes(state_of(app).host.words)
    with forbidden_io(app, monkeypatch) as seen:
        for n in range(1, 20):
            with waffle.override(A=n):
                assert client.get("/").text == f"{n}"
                assert n == waffle.settings.A
    assert seen == []
    assert bytes(state_of(app).host.words) == before
    assert app.config["A"] == 0


def test_the_state_of_an_application_overrides_as_its_extension_does(made: Made) -> None:
    app, waffle = made
    assert isinstance(app, Flask)
    with state_of(app).override({"A": 5}), waffle.override(B=6):
        assert (waffle.settings.A, waffle.settings.B) == (5, 6)
    assert (waffle.settings.A, waffle.settings.B) == (0, 0)
