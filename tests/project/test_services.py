"""The systemd unit and the Emperor's vassal of ``uwsgi_configs/``.

No systemd runs the unit: it checks it, and the test runs its commands and hears what they tell
systemd. A real Emperor runs the vassal.
"""

from __future__ import annotations

import configparser
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.project.test_two_applications import blocks
from tests.support import RedisServer, free_port, request, require_program, wait_until
from tests.support.command_line import flask_environment
from tests.support.places import ROOT
from tests.support.processes import START_SECONDS, ServerProcess
from tests.support.programs import output_of_command
from tests.support.uwsgi_server import uwsgi_command
from tests.support.waiting import SOON_SECONDS

CONFIGS = ROOT / "uwsgi_configs"
UNIT = (CONFIGS / "waffle.service").read_text()
SITE = "/srv/shop"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Give the site that the unit is for: the shop of a page, and the virtual environment."""
    page = "docs/two-applications.md"
    (tmp_path / "shop.py").write_text(
        blocks(page, "python")[0].replace(
            "\nwaffle =", "\napp.config.from_prefixed_env()\nwaffle ="
        )
    )
    (tmp_path / "shop.ini").write_text(blocks(page, "ini")[0])
    (tmp_path / "venv").symlink_to(sys.prefix)
    return tmp_path


def test_systemd_accepts_the_unit(site: Path) -> None:
    program = require_program("systemd-analyze")
    unit = site / "shop.service"
    unit.write_text(UNIT.replace(SITE, str(site)))
    done = subprocess.run(
        [program, "verify", str(unit)], check=False, capture_output=True, text=True, timeout=60
    )
    ours = [line for line in done.stderr.splitlines() if "shop.service" in line]
    assert (done.returncode, ours) == (0, []), done.stderr


def test_the_commands_of_the_unit_run_and_say_when_they_serve(
    site: Path, redis_server: RedisServer
) -> None:
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # keys as they are written
    unit.read_string(UNIT.replace(SITE, str(site)))
    service = unit["Service"]
    port = free_port()
    ini = site / "shop.ini"
    ini.write_text(ini.read_text().replace("8001", str(port)))
    environment = flask_environment(
        {
            "FLASK_WAFFLE_REDIS_PORT": str(redis_server.port),
            "FLASK_WAFFLE_SNAPSHOT_PATH": str(site / "host" / "snapshot"),
        }
    )
    prepare = shlex.split(service["ExecStartPre"])
    subprocess.run(
        prepare, check=True, cwd=service["WorkingDirectory"], env=environment, timeout=60
    )
    assert (site / "instance" / "shop.db").exists()

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(site / "notify"))
        systemd.settimeout(START_SECONDS)
        server = ServerProcess(
            shlex.split(service["ExecStart"]),
            log_path=site / "log",
            environment={**environment, "NOTIFY_SOCKET": str(site / "notify")},
            directory=Path(service["WorkingDirectory"]),
        )
        try:
            assert service["Type"] == "notify"
            said = b""
            while b"READY=1" not in said:
                said = systemd.recv(4096)
            wait_until(
                lambda: request("GET", "/", port=port).text == "Shop", SOON_SECONDS, "it serves"
            )
            server.send(signal.Signals[service["KillSignal"]])
            wait_until(lambda: not server.pids(), SOON_SECONDS, "all its processes have ended")
        finally:
            server.kill()


class Vassal:
    """The vassal's file in the folder of an Emperor, beside the demo."""

    def __init__(self, directory: Path, redis: RedisServer) -> None:
        """Start the Emperor."""
        shutil.copytree(CONFIGS, directory / "uwsgi_configs")
        self.ini = directory / "uwsgi_configs" / "vassal.ini"
        self.port = free_port()
        self.environment = flask_environment(
            {
                "WAFFLE_DEMO_ADDRESS": f"127.0.0.1:{self.port}",
                "WAFFLE_DATABASE_URI": f"sqlite:///{directory}/waffle.db",
                "WAFFLE_REDIS_PORT": str(redis.port),
                "WAFFLE_SNAPSHOT_PATH": str(directory / "host" / "snapshot"),
            }
        )
        program = next(part for part in uwsgi_command() if part.endswith("uwsgi"))
        self.emperor = ServerProcess(
            [program, "--master", "--emperor", str(self.ini), "--emperor-wrapper", program],
            log_path=directory / "log",
            environment=self.environment,
            directory=directory,
        )

    def worker(self) -> int:
        """Return the pid of the worker that answers."""
        return int(request("GET", "/settings.json", port=self.port).json()["pid"])

    def is_served(self) -> bool:
        """Return whether something listens at its address."""
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0

    def set(self, change: str) -> str:
        """Return what `flask waffle set` says."""
        return output_of_command(
            [sys.executable, "-m", "flask", "--app", "demo", "waffle", "set", change],
            directory=self.ini.parent,
            environment=self.environment,
        )


@pytest.fixture
def vassal(tmp_path: Path, redis_server: RedisServer) -> Iterator[Vassal]:
    """Give a vassal that serves."""
    made = Vassal(tmp_path, redis_server)
    try:
        wait_until(made.worker, START_SECONDS, "the vassal serves")
        yield made
    except BaseException:
        print(made.emperor.log_path.read_text())  # noqa: T201  pytest shows it
        raise
    finally:
        made.emperor.stop(signal.SIGINT)


def test_an_emperor_starts_reloads_and_ends_the_vassal(vassal: Vassal) -> None:
    assert "5 of 5 processes on 1 host" in vassal.set("SITENAME=Hello")
    before = vassal.emperor.pids()
    os.utime(vassal.ini)
    wait_until(lambda: vassal.worker() not in before, START_SECONDS, "new workers serve")
    assert "5 of 5 processes on 1 host" in vassal.set("SITENAME=Reloaded")
    vassal.ini.unlink()
    wait_until(lambda: not vassal.is_served(), SOON_SECONDS, "the vassal has ended")
    assert vassal.emperor.running
