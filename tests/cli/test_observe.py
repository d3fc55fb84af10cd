"""`status`, `wait` and `doctor`: each fault is named, with what to do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from pydantic import Field, SecretStr

from tests.cli.conftest import Site
from tests.conftest import Apps, execute, state_of
from tests.support import RedisServer
from tests.support.command_line import flask_command, flask_environment
from tests.support.command_line import run_in_process as run
from tests.support.quick_start import Finished
from tests.support.waiting import SOON_SECONDS, wait_until
from uwsgi_waffle import WaffleSettings
from uwsgi_waffle.ops import status

#: A port that no server listens on.
NO_REDIS = "redis://:s3cret@127.0.0.1:1"


class Settings(WaffleSettings):
    """A number and a secret."""

    A: int = Field(0, le=10)
    API_KEY: SecretStr = SecretStr("k")


class Fewer(WaffleSettings):
    """Another release's settings."""

    B: int = 0


@pytest.fixture
def site(apps: Apps) -> Site:
    """Give an application with one revision."""
    app, waffle = apps(Settings)
    waffle.update({"A": 1})
    return app, waffle


def _findings(app: Flask, *arguments: str) -> dict[str, dict[str, Any]]:
    """Return what the doctor finds, by code."""
    done = run(app, "doctor", "--json", *arguments)
    found = {finding["code"]: finding for finding in done.json["findings"]}
    assert done.status == int(any(finding["is_wrong"] for finding in found.values()))
    return found


def _both(app: Flask) -> tuple[Finished, dict[str, Any]]:
    """Return the status in lines and as JSON."""
    return run(app, "status"), run(app, "status", "--json").json


# -- status -----------------------------------------------------------------------------------


def test_status_of_a_site_that_is_as_it_should_be(site: Site) -> None:
    done, found = _both(site[0])
    assert done.status == 0
    assert done.output.startswith("SQL has revision 1 of namespace default\n")
    assert (found["revision"], found["converged"], found["problems"]) == (1, True, [])
    assert found["process"]["revision"] == 1
    assert found["fleet"]["hosts"][0]["listener"]["state"] == "absent"


def test_status_shows_a_value_that_no_longer_validates(site: Site, apps: Apps) -> None:
    execute(apps.database_uri, "UPDATE waffle_setting SET value = '11'")
    execute(apps.database_uri, "UPDATE waffle_namespace SET revision = 2")
    done, found = _both(site[0])
    assert "The stored value of A cannot be used" in " ".join(done.output.split())
    assert len(found["problems"]) == 1
    finding = _findings(site[0])["value-unusable"]
    assert "flask waffle reset A" in finding["fix"]


@pytest.mark.usefixtures("site")
def test_status_shows_what_is_stored_but_not_declared(apps: Apps) -> None:
    app, _ = apps(Fewer, host="there")
    assert "Stored but not declared by this release: A" in run(app, "status").output
    assert not _findings(app)["undeclared"]["is_wrong"]


def test_status_and_doctor_show_a_callback_that_has_been_running_for_long(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line of its process says which; the problem, which others may see, does not."""
    app, waffle = site
    end = threading.Event()
    waffle.on_change("API_KEY")(lambda: end.wait(SOON_SECONDS))
    assert waffle.settings.A == 1  # the process is listed from its first read on
    waffle.update({"API_KEY": SecretStr("x")})
    try:
        done, found = _both(app)
        assert "on_change('API_KEY') has been running since" in done.output
        (process,) = found["fleet"]["hosts"][0]["processes"]
        assert process["calling"] == "on_change('API_KEY')"
        assert process["calling_since"] > process["since"] - 1
        assert found["problems"] == []
        assert "callback-slow" not in _findings(app)
        monkeypatch.setattr(status, "SLOW_CALLBACK_SECONDS", 0)
        done, found = _both(app)
        (problem,) = found["problems"]
        assert problem.startswith("A callback has been running for ")
        assert f"in pid {os.getpid()}" in problem
        assert "API_KEY" not in problem
        finding = _findings(app)["callback-slow"]
        assert "A callback, on_change('API_KEY'), has been running for" in finding["fact"]
        assert not finding["is_wrong"]
    finally:
        end.set()
    wait_until(lambda: not _both(app)[1]["problems"], SOON_SECONDS, "it has ended")
    assert "has been running" not in run(app, "status").output


def test_status_shows_a_database_that_does_not_answer(apps: Apps, tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("no database")
    app, _ = apps(Settings, WAFFLE_DATABASE_URI=f"sqlite:///{tmp_path}/notes")
    done, found = _both(app)
    assert done.status == 0
    assert "SQL has revision unknown" in done.output
    assert found["revision"] is None
    assert "cannot be used" in found["problems"][0]
    assert _findings(app)["database-unavailable"]["is_wrong"]
    refused = run(app, "list")
    assert refused.status == 1
    assert refused.errors.count("\n") == 1


def test_status_shows_redis_that_does_not_answer_without_its_password(apps: Apps) -> None:
    app, _ = apps(Settings, WAFFLE_MULTIPROC=True, WAFFLE_REDIS_URL=NO_REDIS)
    done, found = _both(app)
    assert "redis://:***@127.0.0.1:1 does not answer" in " ".join(done.output.split())
    assert found["converged"] is False
    (missing,) = found["fleet"]["missing"]
    assert (missing["host"], missing["pid"]) == ("(any other)", None)
    doctor = run(app, "doctor")
    assert "redis-unavailable" in _findings(app)
    for text in (done.output, json.dumps(found), doctor.output, doctor.errors):
        assert "s3cret" not in text


@pytest.mark.parametrize("form", [(), ("--json",)], ids=["lines", "json"])
def test_watch_redraws_until_it_is_interrupted(tmp_path: Path, form: Sequence[str]) -> None:
    """Ctrl-C ends it cleanly; each frame of JSON is a line."""
    log = tmp_path / "log"
    environment = {
        "WAFFLE_DATABASE_URI": f"sqlite:///{tmp_path}/waffle.db",
        "WAFFLE_SNAPSHOT_PATH": str(tmp_path / "here" / "snapshot"),
    }
    arguments = ["status", "--watch", "--interval", "0.1", *form]
    with log.open("wb") as output:
        watching = subprocess.Popen(
            flask_command("tests.apps.whole_numbers:app", *arguments),
            env=flask_environment(environment),
            stdout=output,
            stderr=output,
        )
    try:
        wait_until(
            lambda: log.read_text().count("revision 0" if not form else "\n") >= 6,
            SOON_SECONDS,
            "three frames",
        )
        watching.send_signal(signal.SIGINT)
        assert watching.wait(SOON_SECONDS) == 0
    finally:
        watching.kill()
        watching.wait(SOON_SECONDS)
    assert "Traceback" not in log.read_text()
    frames = log.read_text().strip().splitlines() if form else []
    assert all(json.loads(frame)["revision"] == 0 for frame in frames)


# -- metrics ----------------------------------------------------------------------------------


def test_metrics_are_those_that_the_processes_give(site: Site) -> None:
    app, waffle = site
    done = run(app, "metrics")
    assert done.status == 0
    assert "\nwaffle_revision 1\n" in done.output
    assert done.output.endswith("\n")
    assert done.output.splitlines()[0] == waffle.metrics().splitlines()[0]
    found = {metric["name"]: metric for metric in run(app, "metrics", "--json").json}
    assert found["waffle_revision"] == {
        "name": "waffle_revision",
        "kind": "gauge",
        "help": "Latest revision of the settings on this host; 0 before the first change.",
        "samples": [{"value": 1, "labels": {}}],
    }


def test_metrics_need_no_database(apps: Apps, site: Site) -> None:
    """Those of a host whose listener keeps it up to date."""
    app, _ = site
    state_of(app).host.beat()
    path = apps.directory / "waffle.db"
    path.rename(apps.directory / "kept.db")
    path.mkdir()
    done = run(apps(Settings)[0], "metrics")
    assert (done.status, done.errors) == (0, "")
    assert "\nwaffle_revision 1\n" in done.output


# -- wait -------------------------------------------------------------------------------------


def test_wait_returns_at_once_where_no_process_is_behind(site: Site) -> None:
    assert run(site[0], "wait").output.startswith("revision 1: 0 of 0 processes on 1 host in ")
    assert run(site[0], "wait", "1", "--json").json["missing"] == []


def test_wait_refuses_a_revision_that_is_not_there(site: Site) -> None:
    done = run(site[0], "wait", "9")
    assert done.status == 1
    assert done.errors == "Error: There is no revision 9 to wait for: SQL is at revision 1.\n"


@pytest.mark.parametrize("form", [(), ("--json",)], ids=["lines", "json"])
def test_wait_ends_when_its_time_is_up(apps: Apps, form: Sequence[str]) -> None:
    app, _ = apps(Settings, WAFFLE_MULTIPROC=True, WAFFLE_REDIS_URL=NO_REDIS)
    done = run(app, "wait", "--timeout", "0.1", *form)
    assert done.status == 1
    assert done.errors.count("\n") == 1


# -- doctor -----------------------------------------------------------------------------------


def test_the_doctor_names_a_fix_for_each_finding(site: Site) -> None:
    done = run(site[0], "doctor")
    assert done.status == 0
    assert done.output.count("Fix: ") == 3
    # What is in order is named whole, such as a long path.
    lines = [line for line in done.output.splitlines() if not line.startswith("ok")]
    assert max(map(len, lines)) <= 80
    assert _findings(site[0]).keys() == {"not-multiproc", "no-process", "secrets-unsealed"}


def test_the_doctor_sees_a_listener_that_is_missing(apps: Apps, redis_server: RedisServer) -> None:
    app, waffle = apps(
        Settings,
        WAFFLE_MULTIPROC=True,
        WAFFLE_REDIS_URL=redis_server.url,
        WAFFLE_LISTENER="none",
    )
    assert waffle.revision == 0  # the process has set itself up
    assert "flask waffle listen" in _findings(app)["no-listener"]["fix"]
    state_of(app).retire()


def test_the_doctor_sees_a_snapshot_that_cannot_be_shared(apps: Apps, tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    app, _ = apps(Settings, WAFFLE_SNAPSHOT_PATH=str(tmp_path / "open" / "snapshot"))
    assert "WAFFLE_SNAPSHOT_PATH" in _findings(app)["snapshot-not-shared"]["fix"]


def test_the_doctor_sees_a_snapshot_that_others_may_read(site: Site) -> None:
    path = state_of(site[0]).host.path
    path.chmod(0o644)
    assert _findings(site[0])["snapshot-mode"]["fix"] == f"Run `chmod 600 {path}`."


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")
def test_the_doctor_sees_that_another_user_runs_the_application(apps: Apps) -> None:
    app, _ = apps(Settings, WAFFLE_SNAPSHOT_PATH=None)
    path = state_of(app).host.path
    directory = path.parent.with_name("uwsgi_waffle-65534")
    was_there = directory.exists()
    directory.mkdir(mode=0o700, exist_ok=True)
    theirs = directory / path.name
    try:
        theirs.touch()
        os.chown(directory, 65534, 65534)
        assert "sudo -u nobody" in _findings(app)["other-user"]["fix"]
    finally:
        theirs.unlink()
        if not was_there:
            directory.rmdir()
        for ours in path.parent.glob(f"{path.name}*"):
            ours.unlink()


def test_the_doctor_sees_a_database_in_memory(apps: Apps) -> None:
    app, _ = apps(Settings, WAFFLE_DATABASE_URI="sqlite://")
    assert _findings(app)["database-in-memory"]["is_wrong"]


@pytest.mark.parametrize(
    ("lines", "codes"),
    [
        (
            ["master = true", "mule = waffle", "py-call-uwsgi-fork-hooks = true"],
            {"fork-hooks-with-mule"},
        ),
        (
            [
                "master = true",
                "lazy-apps = true",
                "shared-import = uwsgi_waffle.boot",
                "mule = a:b",
            ],
            {"callable-mule-with-lazy-apps"},
        ),
        (["master = true", "mule = uwsgi_waffle.mule"], {"mule-names-module"}),
        (["master = true", "thunder-lock = true", "threads = 2"], {"thunder-lock-with-threads"}),
        (["master = true", "mount = /a=a:app", "mount = /b=b:app"], {"several-interpreters"}),
        (["master = true", "mount = /a=a:app"], set()),
        (["master = true", "lazy-apps = true", "mule = waffle"], {"lazy-without-boot"}),
        (["http = :80"], {"no-master"}),
        (["include = more.ini", "lazy-apps = true"], set()),
        (["include = gone.ini", "master = true"], {"ini-unreadable"}),
        (["; master = false", "master = true", "", "[other]", "thunder-lock = true"], set()),
    ],
    ids=str,
)
def test_the_doctor_sees_the_traps_of_an_ini_file(
    site: Site,
    tmp_path: Path,
    lines: list[str],
    codes: set[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    before = _findings(site[0]).keys()
    path = tmp_path / "uwsgi.ini"
    path.write_text("\n".join(["[uwsgi]", *lines]))
    (tmp_path / "more.ini").write_text(
        "[uwsgi]\nmaster = true\nshared-import = uwsgi_waffle.boot\n"
    )
    assert _findings(site[0], "--ini", str(path)).keys() - before == codes
