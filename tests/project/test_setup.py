"""The set-up: each configuration starts as it stands, and `make run` is all that is needed."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import RedisServer, UwsgiServer, free_port, in_ci, request, wait_until
from tests.support.processes import ServerProcess

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "uwsgi_configs"
NAMES = sorted(path.stem for path in CONFIGS.glob("*.ini"))

#: Enough for each of the four workers to have answered.
ASKED = 16


@contextlib.contextmanager
def demo(name: str, redis_port: int) -> Iterator[UwsgiServer]:
    """Run a file of `uwsgi_configs/` on a database and a host snapshot of its own."""
    server = UwsgiServer(CONFIGS / f"{name}.ini")
    server.environment = demo_environment(server.directory, redis_port)
    with server:
        yield server


def demo_environment(directory: Path, redis_port: int) -> dict[str, str]:
    """Return what keeps a demo out of what is on this machine already."""
    return {
        "WAFFLE_DATABASE_URI": f"sqlite:///{directory}/waffle.db",
        "WAFFLE_REDIS_PORT": str(redis_port),
        "WAFFLE_SNAPSHOT_PATH": str(directory / "snapshot"),
    }


def site_names(server: UwsgiServer) -> set[str]:
    """Return the setting as the workers serve it, asked until each had its turn."""
    answers = [server.get("/settings.json").json() for _ in range(ASKED)]
    return {answer["settings"]["SITENAME"] for answer in answers}


def test_there_is_a_configuration_for_each_way_to_run_uwsgi() -> None:
    assert NAMES == ["gevent", "lazy", "no_mule", "threads", "waffle"]


@pytest.mark.parametrize("name", NAMES)
def test_a_configuration_starts_as_it_stands_without_redis(name: str) -> None:
    with demo(name, redis_port=free_port()) as server:
        assert len(server.worker_pids()) == 4
        assert site_names(server) == {"Waffle"}

        assert server.post("/settings", form={"SITENAME": "Changed"}).status == 303

        # Not "soon": a request that starts after the change has returned sees it.
        assert site_names(server) == {"Changed"}
        assert "Traceback" not in server.log()


@pytest.mark.parametrize("name", NAMES)
def test_a_configuration_uses_redis_by_one_connection_where_there_is_one(name: str) -> None:
    with RedisServer() as redis, demo(name, redis_port=redis.port) as server:
        wait_until(lambda: redis.subscribers() == 1, 10, "the listener has subscribed")

        assert server.post("/settings", form={"SITENAME": "Changed"}).status == 303

        assert site_names(server) == {"Changed"}
        assert redis.subscribers() == 1
        assert "Traceback" not in server.log()


@pytest.mark.parametrize("name", NAMES)
def test_a_reload_keeps_the_settings(name: str) -> None:
    with demo(name, redis_port=free_port()) as server:
        server.post("/settings", form={"SITENAME": "Changed"})

        server.reload()

        assert site_names(server) == {"Changed"}
        server.post("/settings", form={"SITENAME": "Changed again"})
        assert site_names(server) == {"Changed again"}


def test_the_demo_changes_all_settings_of_a_form_or_none() -> None:
    with demo("waffle", redis_port=free_port()) as server:
        assert 'name="revision" value="0"' in server.get("/").text

        refused = server.post("/settings", form={"SITENAME": "New", "MAX_FILESIZE": "none"})
        assert refused.status == 422
        assert "valid integer" in refused.text
        refused = server.post("/settings", form={"MIN_FILESIZE": "5000"})
        assert refused.status == 422
        assert "the smallest upload is larger than the largest" in refused.text
        assert server.post("/settings", form={"SITENAME": "New", "COLOR": "red"}).status == 400
        assert site_names(server) == {"Waffle"}

        assert server.post("/settings", form={"CLOSED": "true"}).status == 303
        assert "This site is closed" in server.get("/").text
        late = server.post("/settings", form={"revision": "0", "SITENAME": "Late"})
        assert late.status == 409
        assert "revision 1, not 0" in late.text


def test_no_other_site_changes_the_demo_through_a_browser() -> None:
    with demo("waffle", redis_port=free_port()) as server:
        foreign = {"Sec-Fetch-Site": "cross-site"}
        form = {"SITENAME": "Foreign"}
        assert server.post("/settings", form=form, headers=foreign).status == 403
        assert site_names(server) == {"Waffle"}


@pytest.mark.parametrize("name", NAMES)
def test_the_demo_shows_the_pages_and_each_worker_takes_their_forms(name: str) -> None:
    with demo(name, redis_port=free_port()) as server:
        assert 'href="/waffle"' in server.get("/").text
        page = server.get("/waffle")
        token = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', page.text)
        assert token is not None
        form = {"csrf_token": token[1], "revision": "0", "SITENAME": "Changed"}
        headers = {"Cookie": page.headers["set-cookie"].partition(";")[0]}
        for _ in range(ASKED):
            review = server.post("/waffle/review", form=form, headers=headers)
            assert review.status == 200, review.text
        assert server.post("/waffle/review", form=form).status == 400, "without the cookie"


def test_make_run_serves_and_survives_a_reload(tmp_path: Path) -> None:
    # The environment of this run stands in for the one that `make run` would make.
    made = Path(sys.prefix)
    check_make_run(ROOT, tmp_path, [f"VENV={made}", f"--old-file={made}/.demo"])


@pytest.mark.skipif(not in_ci(), reason="installs everything anew from the package index")
@pytest.mark.timeout(600)
def test_make_run_is_all_that_a_fresh_clone_needs(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    left_out = (".git", ".venv*", ".*_cache", "__pycache__", "instance")
    shutil.copytree(ROOT, clone, ignore=shutil.ignore_patterns(*left_out))
    version = f"{sys.version_info.major}.{sys.version_info.minor}"

    check_make_run(clone, tmp_path, [f"PYTHON={sys.base_prefix}/bin/python{version}"])


def check_make_run(directory: Path, data: Path, arguments: list[str]) -> None:
    """Hold that `make run` prints where it serves, serves there, and does so after a SIGHUP."""
    address = f"127.0.0.1:{(port := free_port())}"
    outside = ("WAFFLE_", "MAKE", "UWSGI", "VIRTUAL_ENV")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(outside)}
    process = ServerProcess(
        ["make", "run", f"ADDRESS={address}", *arguments],
        log_path=(log_path := data / "make.log"),
        directory=directory,
        environment={**environment, **demo_environment(data, free_port())},
    )

    def worker() -> int:
        assert process.running, "make run ended"
        pid: int = request("GET", "/settings.json", port=port).json()["pid"]
        return pid

    try:
        wait_until(worker, 500, "make run serves")
        assert f"The demo is at http://{address}/" in log_path.read_text()
        (master,) = process.children()
        before = process.pids()

        os.kill(master, signal.SIGHUP)

        wait_until(lambda: worker() not in before, 30, "a new worker answers after the reload")
        assert process.children() == [master]
        assert not {worker() for _ in range(ASKED)} & set(before)
    except BaseException:
        print(log_path.read_text())  # noqa: T201  pytest shows it
        raise
    finally:
        process.kill()
