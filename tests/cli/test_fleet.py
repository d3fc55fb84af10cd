"""What commands print about processes and hosts that do not serve a revision whole."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.bus.conftest import host_at
from tests.cli.conftest import Site
from tests.conftest import Apps, state_of
from tests.support import RedisServer
from tests.support.command_line import flask_command, flask_environment
from tests.support.command_line import run_in_process as run
from tests.support.quick_start import Finished
from tests.support.waiting import NEVER_SECONDS, SOON_SECONDS, wait_until
from uwsgi_waffle.bus.client import BusUnavailable
from uwsgi_waffle.bus.fleet import HostStatus
from uwsgi_waffle.cli import _base
from uwsgi_waffle.host import layout
from uwsgi_waffle.host.processes import ListenerState
from uwsgi_waffle.host.records import HostSnapshot
from uwsgi_waffle.listen import reporter

NAMES = [f"S{number:03}" for number in range(20)]
CONFS = {name: {"default": 0} for name in NAMES}


@pytest.fixture
def site(apps: Apps, redis_server: RedisServer) -> Site:
    """Give an application with one revision, where no process runs."""
    app, waffle = apps(WAFFLE_CONFS=CONFS, WAFFLE_MULTIPROC=True, WAFFLE_REDIS_URL=redis_server.url)
    waffle.update({"S000": 1})
    return app, waffle


def one_error(done: Finished) -> str:
    """Return the one line of a command that failed."""
    assert done.status == 1
    assert done.errors.count("\n") == 1
    return done.errors


# -- refusals -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def old_release(
    shared_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Site, int]]:
    """Give an application, and the pid of a listener that runs an older release of it.

    The older release accepts values up to 5.
    """
    directory: Path = tmp_path_factory.mktemp("releases")
    environment = {
        "WAFFLE_DATABASE_URI": f"sqlite:///{directory}/waffle.db",
        "WAFFLE_REDIS_URL": shared_redis.url,
        "WAFFLE_REDIS_CHANNEL": "releases",
        "WAFFLE_MULTIPROC": "true",
        "WAFFLE_POLL_SECONDS": str(NEVER_SECONDS),
        "WAFFLE_SNAPSHOT_PATH": str(directory / "here" / "snapshot"),
    }
    made = Apps(directory, environment["WAFFLE_DATABASE_URI"])
    app, waffle = made(WAFFLE_CONFS=CONFS, **environment)
    with subprocess.Popen(
        flask_command("tests.apps.whole_numbers:app", "listen"),
        env=flask_environment({**environment, "TEST_MOST": "5"}),
        stdout=subprocess.DEVNULL,
    ) as listener:
        try:
            host = state_of(app).host
            wait_until(
                lambda: any(slot.listener.state == "live" for slot in host.slots.living()),
                SOON_SECONDS,
                "the older release listens",
            )
            yield (app, waffle), listener.pid
        finally:
            listener.terminate()
            made.close()


def test_set_wait_and_status_name_a_refusal(old_release: tuple[Site, int]) -> None:
    """Name, host, pid, reason, and what is served instead; no command reports success."""
    (app, _), pid = old_release
    host = socket.gethostname()
    assert run(app, "set", "S000=5", "--timeout", str(SOON_SECONDS)).status == 0
    line = (
        f"pid {pid} on {host} refuses S000 (Input should be less than or equal to 5); it serves "
        "the last good value"
    )
    assert line in one_error(run(app, "set", "S000=9", "--timeout", "1"))
    assert line in one_error(run(app, "wait", "--timeout", "0"))
    refused = {
        "host": host,
        "pid": pid,
        "name": "S000",
        "reason": "Input should be less than or equal to 5",
        "serving": "last good value",
    }
    done = run(app, "wait", "--timeout", "0", "--json")
    assert done.status == 1
    assert (done.json["refused"], done.json["applied"]) == ([refused], 0)
    found = run(app, "status", "--json").json
    assert (found["converged"], found["fleet"]["refused"]) == (False, [refused])
    lines = run(app, "status").output.splitlines()
    assert "0 of 1 process on 1 host at revision 2" in lines
    (place,) = (n for n, line in enumerate(lines) if f"pid {pid}" in line)
    assert " ".join(" ".join(lines[place + 1 :]).split()).startswith(
        "! refuses S000 (Input should be less than or equal to 5); it serves the last good value"
    )
    assert max(map(len, lines)) <= 80
    assert run(app, "set", "S000=4", "--timeout", str(SOON_SECONDS)).status == 0
    assert run(app, "status", "--json").json["converged"] is True


# -- other hosts ----------------------------------------------------------------------------------

Report = Callable[..., HostStatus]


@pytest.fixture
def report(site: Site, monkeypatch: pytest.MonkeyPatch) -> Report:
    """Report another host, some seconds ago."""
    state = state_of(site[0])
    now = state.reports._redis_seconds  # noqa: SLF001  # there is no other way to be silent at once

    def put(host_id: str, name: str = "web1", *, seconds_ago: float = 0.0, **known: Any) -> Any:
        values = {"name": name, "following": 2, "served": 2, **known}
        host = host_at(state.host.position, host_id * 4, **values)
        with monkeypatch.context() as earlier:
            earlier.setattr(state.reports, "_redis_seconds", lambda: now() - seconds_ago)
            state.reports.put(host)
        return host

    return put


@pytest.mark.parametrize("label", ["00b2", "00B200", "web1#00b200"])
def test_a_silent_host_is_waited_for_until_it_is_forgotten(
    site: Site, report: Report, label: str
) -> None:
    app = site[0]
    report("00a1")
    report("00b2", seconds_ago=60.0)
    assert re.search(
        r"silent since [\d:]{8} UTC \(60 s\)", one_error(run(app, "wait", "--timeout", "0"))
    )
    assert re.search(
        r"^web1#00b200: silent since [\d:]{8} UTC \(60 s\); last known:$",
        run(app, "status").output,
        re.MULTILINE,
    )
    done = run(app, "forget", label)
    assert (done.status, done.errors) == (0, "")
    assert done.output.startswith("Forgotten: host web1 (id 00b200b200b200b2)")
    assert run(app, "wait", "--timeout", "0").output.startswith("revision 1: 2 of 2 processes")


def test_forget_finds_a_host_by_its_name(site: Site, report: Report) -> None:
    report("00a1", "web1", seconds_ago=60.0)
    report("00b2", "web2", seconds_ago=70.0)
    found = run(site[0], "forget", "web2", "--json").json
    assert (found["id"], found["name"]) == ("00b2" * 4, "web2")
    assert found["reported_seconds_ago"] == pytest.approx(70, abs=SOON_SECONDS)
    assert [host["name"] for host in run(site[0], "status", "--json").json["fleet"]["hosts"]] == [
        "web1"
    ]


def test_forget_removes_the_note_of_a_host_that_could_not_report(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that still runs makes it again, so that `wait` does not succeed without it."""
    app = site[0]
    state = state_of(app)

    def refuse(*_: object, **__: object) -> None:
        message = "NOPERM"
        raise BusUnavailable(message)

    monkeypatch.setattr(state.reports, "put", refuse)
    monkeypatch.setattr(reporter, "REGISTER_SECONDS", 0.0)
    parts = (state.config, state.host, state.reports, state.registry, "")
    mute: Any = SimpleNamespace(is_live=True, error="")
    there = reporter.Reporter(*parts)
    state.host.register("process")
    for host_id in ("00a1", "00b2"):
        state.registry.register(host_id * 4, "web1", "NOPERM")
    assert "host web1#00a100: it cannot report to Redis (NOPERM)" in one_error(
        run(app, "wait", "--timeout", "0")
    )
    assert run(app, "forget", "00a1", "--json").json == {
        "id": "00a1" * 4,
        "name": "web1",
        "reported_seconds_ago": None,
    }
    assert run(app, "forget", "web1").output.endswith("which never reported.\n")
    assert run(app, "wait", "--timeout", "0").status == 0
    for _ in range(2):
        state.host.words[layout.REPORTED_WORD] = 0
        there._retry_at = 0.0  # noqa: SLF001  # it waits longer after each failure
        there.report_if_due(mute)
        assert [host.name for host in state.registry.read()] == [socket.gethostname()]
        state.registry.forget(state.host.host_id)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("web9", "No host web9 has reported. Known: web1 (id 00a1"),
        ("", "No host "),
        ("00", "Several hosts match 00: web1 (id 00a1"),
        ("web1", "Give the first digits of an id."),
        ("00c3", "would be listed again at once"),
    ],
)
def test_forget_refuses_what_is_unknown_ambiguous_or_alive(
    site: Site, report: Report, name: str, reason: str
) -> None:
    report("00a1", seconds_ago=60.0)
    report("00b2", seconds_ago=60.0)
    report("00c3", "web2")
    assert reason in one_error(run(site[0], "forget", name))
    assert len(run(site[0], "status", "--json").json["fleet"]["hosts"]) == 3


def test_forget_needs_redis(apps: Apps) -> None:
    alone, _ = apps(WAFFLE_CONFS=CONFS)
    assert "WAFFLE_MULTIPROC is off" in one_error(run(alone, "forget", "web1"))
    app, _ = apps(WAFFLE_CONFS=CONFS, WAFFLE_MULTIPROC=True, WAFFLE_REDIS_URL="redis://127.0.0.1:1")
    assert "Redis at redis://127.0.0.1:1 does not answer" in one_error(run(app, "forget", "web1"))


def test_the_fault_of_a_host_is_shown_and_fails_wait(site: Site, report: Report) -> None:
    report("00a1", fault="its processes share no memory", unlisted=1)
    errors = one_error(run(site[0], "wait", "--timeout", "0"))
    assert "host web1: its processes share no memory" in errors
    assert "1 worker has not loaded the application" in errors
    lines = run(site[0], "status").output
    assert "  ! its processes share no memory" in lines
    assert "  ! 1 of uWSGI's workers have not loaded the application" in lines
    (host,) = run(site[0], "status", "--json").json["fleet"]["hosts"]
    assert (host["fault"], host["unlisted"]) == ("its processes share no memory", 1)


def test_no_terminal_obeys_what_a_host_reports(site: Site, report: Report) -> None:
    hostile = "web\x1b[2J\x9b\u202e\n"
    report("00a1", hostile, fault=hostile, listener=ListenerState("polling", 0.0, hostile))
    for command in (["status"], ["wait", "--timeout", "0"], ["doctor"], ["forget", "00a1"]):
        done = run(site[0], *command)
        for text in (done.output, done.errors):
            assert [c for c in text if not c.isprintable() and c != "\n"] == []


def test_where_no_process_is_found_the_command_names_where_it_looked(
    site: Site,
    apps: Apps,
    redis_server: RedisServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As of another user, or with another database: 0 of 0 proves nothing."""
    app, _ = site
    state = state_of(app)
    shared = tmp_path / "shared" / f"x.{layout.VERSION}.snapshot"
    monkeypatch.setattr(_base, "default_path", lambda _config: shared)
    for command in (["wait"], ["set", "S000=2"], ["set", "S000=3", "--json"]):
        done = run(app, *command)
        assert done.status == 0
        assert done.errors.count("\n") == 1
        assert done.errors.startswith("No process of the application is known here. ")
        for place in (state.store.database.url, "namespace default", str(state.host.path)):
            assert place in done.errors
        assert "Another database" not in done.errors
        assert "alive here" not in done.errors
    other, _ = apps(
        host="there",
        WAFFLE_CONFS=CONFS,
        WAFFLE_DATABASE_URI=f"sqlite:///{tmp_path}/other.db",
        WAFFLE_MULTIPROC=True,
        WAFFLE_REDIS_URL=redis_server.url,
    )
    there = state_of(other)
    beside = HostSnapshot(shared, database=tmp_path / "other.db")
    beside.register("worker")
    assert f"1 process is alive here with {tmp_path}/other.db." in run(app, "wait").errors
    there.reports.put(host_at(there.host.position))
    assert "Another database is announced" in run(app, "wait").errors
    assert "Another database is announced" in run(app, "status").output


# -- resync -----------------------------------------------------------------------------------


def test_resync_works_from_a_box_that_has_seen_nothing(
    site: Site, report: Report, apps: Apps, redis_server: RedisServer, tmp_path: Path
) -> None:
    """After a backup was restored, the box reads from Redis how far the hosts were."""
    app, waffle = site
    backup = (tmp_path / "waffle.db").read_bytes()
    waffle.update({"S000": 2})
    waffle.update({"S000": 3})
    state = state_of(app)
    report("00a1")
    state.store.database.close()
    (tmp_path / "waffle.db").write_bytes(backup)
    box, _ = apps(
        host="box",
        WAFFLE_CONFS=CONFS,
        WAFFLE_MULTIPROC=True,
        WAFFLE_REDIS_URL=redis_server.url,
    )
    assert state_of(box).serving.current.revision == 1
    errors = one_error(run(box, "wait", "--timeout", "0"))
    assert "host web1: has revision 3, ahead of SQL's 1: run `flask waffle resync`" in errors
    assert run(box, "resync", "--json").json == {"revision": 4, "moved": True}
    assert run(box, "resync").output.startswith("Nothing to do: SQL is at revision 4")
    assert run(app, "get", "S000").output == "1\n"
