"""The set-up: each configuration starts as it is, and `make run` is all that a demo needs."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import RedisServer, UwsgiServer, free_port, in_ci, request, wait_until
from tests.support.places import ROOT
from tests.support.processes import ServerProcess
from tests.support.waiting import SOON_SECONDS

CONFIGS = ROOT / "uwsgi_configs"
#: ``test_services`` runs the vassal, under an Emperor.
NAMES = sorted(path.stem for path in CONFIGS.glob("*.ini") if path.stem != "vassal")

#: Enough requests for each of the four workers to have answered.
ASKED = 16
#: With the installation of all packages.
MAKE_SECONDS = 500


@contextlib.contextmanager
def demo(name: str, redis_port: int) -> Iterator[UwsgiServer]:
    """Run a file of `uwsgi_configs/` on a database and a host snapshot of its own."""
    server = UwsgiServer(CONFIGS / f"{name}.ini")
    server.environment = {
        "WAFFLE_DATABASE_URI": f"sqlite:///{server.directory}/waffle.db",
        "WAFFLE_REDIS_PORT": str(redis_port),
        "WAFFLE_SNAPSHOT_PATH": str(server.directory / "snapshot"),
    }
    with server:
        yield server


def site_names(server: UwsgiServer) -> set[str]:
    """Return the setting as the workers serve it, asked until each has had a request."""
    answers = [server.get("/settings.json").json() for _ in range(ASKED)]
    return {answer["settings"]["SITENAME"] for answer in answers}


def change(server: UwsgiServer, name: str) -> None:
    """Change the setting by the form, and see that every worker serves it at once."""
    assert server.post("/settings", form={"SITENAME": name}).status == 303
    assert site_names(server) == {name}


def test_there_is_a_configuration_for_each_way_to_run_uwsgi() -> None:
    assert NAMES == ["gevent", "lazy", "no_mule", "threads", "waffle"]


@pytest.mark.parametrize("name", NAMES)
def test_a_configuration_works_as_it_is_without_redis_and_with_it(name: str) -> None:
    redis = RedisServer()
    with demo(name, redis_port=redis.port) as server:
        assert len(server.worker_pids()) == 4
        assert site_names(server) == {"Waffle"}
        change(server, "Changed")

        server.reload()

        assert site_names(server) == {"Changed"}
        change(server, "Changed again")
        with redis:
            redis.wait_for_subscribers(1)
            change(server, "Changed with Redis")
            assert redis.subscribers() == 1
            use_pages(server)
            assert "Traceback" not in server.log()


def use_pages(server: UwsgiServer) -> None:
    """Find the pages, and send the same form to every worker."""
    assert 'href="/waffle"' in server.get("/").text
    page = server.get("/waffle")
    fields = {
        name: re.search(rf'name="{name}"[^>]*value="([^"]+)"', page.text)
        for name in ("csrf_token", "revision")
    }
    form = {name: found[1] for name, found in fields.items() if found is not None}
    assert form.keys() == fields.keys()
    form["SITENAME"] = "By the pages"
    headers = {"Cookie": page.headers["set-cookie"].partition(";")[0]}
    for _ in range(ASKED):
        review = server.post("/waffle/review", form=form, headers=headers)
        assert review.status == 200, review.text
    assert server.post("/waffle/review", form=form).status == 400, "without the cookie"


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
        foreign = {"Sec-Fetch-Site": "cross-site"}
        form = {"SITENAME": "Foreign"}
        assert server.post("/settings", form=form, headers=foreign).status == 403
        assert site_names(server) == {"Waffle"}

        assert server.post("/settings", form={"CLOSED": "true"}).status == 303
        assert "This site is closed" in server.get("/").text
        late = server.post("/settings", form={"revision": "0", "SITENAME": "Late"})
        assert late.status == 409
        assert "revision 1, not 0" in late.text


@pytest.mark.timeout(2 * MAKE_SECONDS)
def test_make_run_is_all_that_a_fresh_clone_needs(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    """`make run` starts without a warning; the command that it prints works; a SIGHUP keeps both.

    In CI it installs everything from the package index, elsewhere it finds that done.
    """
    clone = tmp_path / "clone"
    left_out = (".git", ".venv*", ".*_cache", "__pycache__", "instance", "build", "dist")
    shutil.copytree(ROOT, clone, ignore=shutil.ignore_patterns(*left_out))
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    options = [f"PYTHON={sys.base_prefix}/bin/python{version}"]
    if not in_ci():
        options = [f"VENV={sys.prefix}", f"--old-file={sys.prefix}/.demo"]
    port = free_port()
    outside = ("WAFFLE_", "MAKE", "MFLAGS", "UWSGI", "VIRTUAL_ENV")
    environment = {
        **{key: text for key, text in os.environ.items() if not key.startswith(outside)},
        "WAFFLE_REDIS_PORT": str(redis_server.port),
        "WAFFLE_SNAPSHOT_PATH": str(tmp_path / "snapshot"),
    }
    process = ServerProcess(
        ["make", "run", f"ADDRESS=127.0.0.1:{port}", *options],
        log_path=(log_path := tmp_path / "make.log"),
        directory=clone,
        environment=environment,
    )

    def answer() -> tuple[int, str]:
        assert process.running, "make run ended"
        found = request("GET", "/settings.json", port=port).json()
        return found["pid"], found["settings"]["SITENAME"]

    def run(command: str, directory: Path) -> str:
        """Run a command as a person does who copies it into a shell."""
        shell = ["bash", "-c", command]
        return subprocess.check_output(
            shell, env=environment, cwd=directory, text=True, stderr=subprocess.STDOUT, timeout=60
        )

    try:
        assert wait_until(answer, MAKE_SECONDS, "make run serves")[1] == "Waffle"
        redis_server.wait_for_subscribers(1)
        log = log_path.read_text()
        assert f"The demo is at http://127.0.0.1:{port}/" in log
        started = log[log.index("Starting http://") :].replace(
            "*** WARNING: you are running uWSGI as root !!! (use the --uid flag) ***", ""
        )
        assert not re.search("(?i)warn|error|traceback|waffle: ", started), started

        # From a folder that has nothing to do with the demo.
        printed = re.search(r"another shell:\n +(\S.*)\n", log)
        assert printed is not None
        assert re.search(r"\nrevision 1: 5 of 5 processes on 1 host", run(printed[1], tmp_path))
        flask = printed[1].partition(" ")[0]
        by_module = f"{flask} --app uwsgi_configs.demo waffle get SITENAME"
        # With another host snapshot, as of another host, so that it must ask the database.
        elsewhere = f"WAFFLE_SNAPSHOT_PATH={tmp_path}/elsewhere"
        assert run(f"{elsewhere} {by_module}", clone) == "Hello\n"

        (master,) = process.children()
        before = process.pids()
        os.kill(master, signal.SIGHUP)
        wait_until(lambda: answer()[0] not in before, SOON_SECONDS, "a new worker answers")
        assert process.children() == [master]
        answers = [answer() for _ in range(ASKED)]
        assert not {pid for pid, _ in answers} & set(before)
        assert {name for _, name in answers} == {"Hello"}
    except BaseException:
        print(log_path.read_text())  # noqa: T201  pytest shows it
        raise
    finally:
        process.kill()
