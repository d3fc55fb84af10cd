"""Several applications in a process: each has its settings, and takes all with it at its end."""

from __future__ import annotations

import gc
import threading
from pathlib import Path

import pytest
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.test import Client

from tests.conftest import Apps
from tests.support import RedisServer, wait_until
from tests.support.listening import CONFS
from tests.support.soak import times
from tests.support.waiting import SOON_SECONDS
from uwsgi_waffle import WaffleConf, WaffleError
from uwsgi_waffle.process import parts


def test_one_extension_serves_several_apps(apps: Apps) -> None:
    waffle = WaffleConf()
    with pytest.raises(WaffleError, match="init_app"):
        _ = waffle.settings
    both = [
        apps.flask(host=name, WAFFLE_NAMESPACE=name, WAFFLE_CONFS=CONFS)
        for name in ("first", "second")
    ]

    def read_both() -> str:
        with both[1].app_context():
            other = waffle.settings.SIZE
        return f"{waffle.settings.SIZE} {other}"

    for number, app in enumerate(both):
        apps.init(waffle, app)
        app.add_url_rule("/both", "both", read_both)
        app.add_url_rule("/", "read", lambda: f"{waffle.settings.SIZE}")
        with app.app_context():
            waffle.update({"SIZE": number + 1})
    with pytest.raises(WaffleError, match="several apps"):
        _ = waffle.settings
    assert [app.test_client().get("/").text for app in both] == ["1", "2"]
    assert both[0].test_client().get("/both").text == "1 2"
    with both[0].app_context(), waffle.override(SIZE=9):
        assert [app.test_client().get("/").text for app in both] == ["9", "2"]


def test_an_extension_of_several_apps_is_not_at_hand_in_the_app_of_another_extension(
    apps: Apps,
) -> None:
    """A change would reach the other application's settings."""
    waffle = WaffleConf()
    for name in ("first", "second"):
        apps.init(waffle, apps.flask(host=name, WAFFLE_NAMESPACE=name, WAFFLE_CONFS=CONFS))
    foreign, other = apps(host="third", WAFFLE_NAMESPACE="third", WAFFLE_CONFS=CONFS)
    with foreign.app_context():
        with pytest.raises(WaffleError, match="none of them is current"):
            waffle.update({"SIZE": 5})
        assert other.settings.SIZE == 1


def test_a_request_of_one_app_may_ask_another_app_of_the_process(apps: Apps) -> None:
    (first_app, first), (second_app, second) = (
        apps(host=name, WAFFLE_NAMESPACE=name, WAFFLE_CONFS=CONFS) for name in ("first", "second")
    )
    first.update({"SIZE": 1})
    second.update({"SIZE": 2})
    for app in (first_app, second_app):
        app.add_url_rule("/", "read", lambda: f"{first.settings.SIZE} {second.settings.SIZE}")
    mounted = Client(DispatcherMiddleware(first_app, {"/second": second_app}))
    assert mounted.get("/").text == mounted.get("/second/").text == "1 2"


def listeners() -> list[str]:
    """Return the names of the threads of applications in this process."""
    gc.collect()
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("waffle")]


def descriptors() -> int:
    """Return how many files and sockets this process has open."""
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


def test_applications_that_listened_leave_no_thread_descriptor_or_file(
    apps: Apps, redis_server: RedisServer, tmp_path: Path
) -> None:
    """As where each test of an application makes one, on the database of all of them."""

    def use() -> None:
        app = apps.flask(
            WAFFLE_CONFS=CONFS, WAFFLE_MULTIPROC=True, WAFFLE_REDIS_URL=redis_server.url
        )
        waffle = WaffleConf(app)
        app.add_url_rule("/", "read", lambda: f"{waffle.settings.SIZE}")
        assert app.test_client().get("/").text == "1"

    def wait_until_dropped() -> None:
        wait_until(lambda: not listeners(), SOON_SECONDS, "the listeners end")
        redis_server.wait_for_subscribers(0)

    use()
    wait_until_dropped()
    before, files_before = descriptors(), set(tmp_path.rglob("*"))
    for _ in range(times(200, 1000)):
        use()
    wait_until_dropped()
    wait_until(lambda: descriptors() <= before, SOON_SECONDS, "no descriptor is left")
    assert set(tmp_path.rglob("*")) == files_before


@pytest.mark.parametrize("uri", ["sqlite://", "sqlite:///:memory:"])
def test_databases_in_memory_have_nothing_in_common(
    apps: Apps, uri: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the tests of an application that has none but this."""
    monkeypatch.setattr(parts, "default_path", lambda _: apps.directory / "user" / "snapshot")
    found = []
    for size in (5, 6, 7):
        app = apps.flask(WAFFLE_CONFS=CONFS, WAFFLE_DATABASE_URI=uri, WAFFLE_SNAPSHOT_PATH=None)
        waffle = WaffleConf(app)
        app.add_url_rule("/", "read", lambda waffle=waffle: f"{waffle.settings.SIZE}")
        found.append(waffle.settings.SIZE)
        waffle.update({"SIZE": size})
        assert app.test_client().get("/").text == f"{size}"
        assert (waffle.revision, waffle.refresh(), waffle.settings.SIZE) == (1, False, size)
    assert found == [1, 1, 1]
    assert caplog.messages == []
    assert not (apps.directory / "user").exists()
