"""Pages with a session beside servers: README.md, and two applications on one Redis."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support import RedisServer, UwsgiServer, request, wait_until
from tests.support.command_line import flask_environment
from tests.support.places import ROOT
from tests.support.programs import output_of_command

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: What is another text in each run, and what stands for it.
VARYING = {
    r"in \d+ ms|in \d+\.\d s": "in TIME",
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d": "MOMENT",
    r"pid \d+ *": "pid PID ",
    r"^\S+ \(this host\)": "HOST (this host)",
    r"sqlite:////\S+": "DATABASE",
}
#: Within this time the other application's listener has reported.
REPORTED_SECONDS = 10.0


@dataclass
class Session:
    """A page's files in a directory, its servers, and the commands that it shows.

    :ivar ports: port in the page -> port of this run
    """

    directory: Path
    redis: RedisServer
    ports: dict[int, int] = field(default_factory=dict)
    servers: list[UwsgiServer] = field(default_factory=list)

    def start(self, program: str, ini: str) -> None:
        """Write an application's files and start its server; as they stand, but for the ports."""
        listens = re.search(r"(?m)^http = 127\.0\.0\.1:(\d+)$", ini)
        assert listens is not None, "the ini file has no address"
        path = self._write(
            program.replace("\nwaffle =", "\napp.config.from_prefixed_env()\nwaffle =")
        )
        server = UwsgiServer(self.directory / f"{path.stem}.ini")
        self._write(ini.replace(listens[1], str(server.port)))
        server.environment = {
            **self._environment(path.stem),
            "PYTHONPATH": os.pathsep.join((str(self.directory), str(ROOT))),
        }
        self.servers.append(server)
        self.ports[int(listens[1])] = server.port
        server.start()

    def _write(self, text: str) -> Path:
        """Write a file, which is named in its first line."""
        name = re.match(r"[#;] (\S+)\n", text)
        assert name is not None, "the block does not begin with the name of its file"
        path = self.directory / name[1]
        path.write_text(text)
        return path

    def _environment(self, app: str) -> dict[str, str]:
        """Return what keeps an application apart from what is on this machine already."""
        return {
            "FLASK_WAFFLE_REDIS_PORT": str(self.redis.port),
            "FLASK_WAFFLE_SNAPSHOT_PATH": str(self.directory / app / "snapshot"),
        }

    def close(self) -> None:
        """End the servers."""
        for server in self.servers:
            server.close()

    def wait_until_reported(self) -> None:
        """Return when each application's database is announced."""
        with self.redis.client() as client:
            wait_until(
                lambda: client.zcard("{waffleconf:default}:lineages") == len(self.servers),
                REPORTED_SECONDS,
                "the listeners report",
            )

    def check(self, block: str) -> None:
        """Run the commands of a console block, which must succeed and print what it shows."""
        parts = re.split(r"(?m)^\$ (.*)\n", block)[1:]
        for command, output in zip(parts[::2], parts[1::2], strict=True):
            assert unified(self.run(command)) == unified(output), command

    def run(self, command: str) -> str:
        """Return what a command prints; it must succeed."""
        program, *arguments = shlex.split(command)
        if program == "curl":
            port = self.ports[int(re.findall(r":(\d+)/", arguments[-1])[0])]
            return f"{request('GET', '/', port=port).text}\n"
        assert (program, arguments[0]) == ("flask", "--app")
        return output_of_command(
            [sys.executable, "-m", "flask", *arguments],
            directory=self.directory,
            environment=flask_environment(self._environment(arguments[1])),
        )


@pytest.fixture(name="session")
def _session(tmp_path: Path) -> Iterator[Session]:
    with contextlib.ExitStack() as stack:
        session = Session(tmp_path, stack.enter_context(RedisServer()))
        stack.callback(session.close)
        yield session


def blocks(page: str, language: str) -> list[str]:
    """Return the code blocks of a page in a language."""
    found = BLOCK.findall((ROOT / page).read_text())
    return [text for name, text in found if name == language]


def unified(output: str) -> str:
    """Return an output without what is another text in each run."""
    for pattern, text in VARYING.items():
        output = re.sub(pattern, text, output, flags=re.MULTILINE)
    # Processes are listed in the order in which they were set up.
    processes = r"(?m)(^  (worker|mule) .*\n)+"
    return re.sub(
        processes, lambda found: "".join(sorted(found[0].splitlines(keepends=True))), output
    )


def as_blog(text: str) -> str:
    """Return a file of the shop as that of the blog."""
    return text.replace("shop", "blog").replace("Shop", "Blog").replace("8001", "8002")


def test_each_of_two_applications_counts_its_own_processes(session: Session) -> None:
    page = "docs/two-applications.md"
    (program,), (ini,) = blocks(page, "python"), blocks(page, "ini")
    _, commands = blocks(page, "console")
    session.start(program, ini)
    session.start(as_blog(program), as_blog(ini))
    session.wait_until_reported()

    session.check(commands)


def test_the_first_session_of_the_readme(session: Session) -> None:
    page = "README.md"
    session.start(blocks(page, "python")[0], blocks(page, "ini")[0])
    session.wait_until_reported()

    session.check(blocks(page, "console")[-1])
