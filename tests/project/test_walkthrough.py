"""docs/walkthrough.md, word for word in an empty directory: its files, its commands, its server."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import RedisServer, free_port, request, wait_until
from tests.support.places import ROOT
from tests.support.processes import START_SECONDS, ServerProcess
from tests.support.soak import is_soak

PAGE = (ROOT / "docs" / "walkthrough.md").read_text()
PORT = "8080"
#: The heading of a step, or a block with the mark before it.
PART = re.compile(
    r"^## (?P<step>[^\n]+)$"
    r"|(?:<!-- (?P<mark>[^>]+) -->\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
#: What is another text in each run, and what stands for it.
VARYING = {
    r"in \d+ ms|in \d+\.\d s": "in TIME",
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d": "MOMENT",
    r"\S+ \(cli\)": "OPERATOR (cli)",
}
#: Of one command; it may install packages.
COMMAND_SECONDS = 300


class Walk:
    """A reader of the page.

    :ivar seconds: step -> how long its commands took
    """

    def __init__(self, directory: Path, redis: RedisServer) -> None:
        """Sit down before an empty directory, with a clone of uwsgi_waffle beside it."""
        self.directory = directory / "empty"
        self.directory.mkdir()
        (directory / "uwsgi_waffle").symlink_to(ROOT)
        self.port = free_port()
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.servers: list[ServerProcess] = []
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("WAFFLE_", "FLASK_"))}
        binaries = (self.directory / "venv" / "bin", Path(sys.prefix) / "bin", inherited["PATH"])
        self.environment = {
            **inherited,
            "PATH": os.pathsep.join(map(str, binaries)),
            "FLASK_WAFFLE_REDIS_PORT": str(redis.port),
            "FLASK_WAFFLE_SNAPSHOT_PATH": str(directory / "host" / "snapshot"),
        }

    def follow(self, page: str) -> None:
        """Do what the page says."""
        step = ""
        for part in PART.finditer(page):
            step = part["step"] or step
            began = time.monotonic()
            if part["language"] == "console":
                if part["mark"] != "in a soak" or is_soak():
                    self._type(part["text"], in_background=part["mark"] == "in the background")
            elif part["language"] is not None:
                self._write(part["text"])
            self.seconds[step] += time.monotonic() - began

    def _write(self, text: str) -> None:
        """Write a file, which is named in its first line."""
        name = re.match(r"[#;] (\S+)\n", text)
        assert name is not None, "the block does not begin with the name of its file"
        path = self.directory / name[1]
        path.parent.mkdir(exist_ok=True)
        path.write_text(text.replace(PORT, str(self.port)))

    def _type(self, block: str, *, in_background: bool) -> None:
        """Run the commands of a block, which must succeed and print the lines that it shows."""
        parts = re.split(r"(?m)^\$ ((?:.*\\\n)*.*)\n", block.replace(PORT, str(self.port)))[1:]
        for command, lines in zip(parts[::2], parts[1::2], strict=True):
            if in_background:
                self._serve(command)
                continue
            printed = iter(unified(self._run(command)).splitlines())
            for line in unified(lines).splitlines():
                assert line in printed, f"{command}: no line (or not in this order) {line}"

    def _run(self, command: str) -> str:
        done = subprocess.run(
            ["bash", "-c", command],  # noqa: S607  # as a reader does
            check=False,
            cwd=self.directory,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_SECONDS,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}"
        return done.stdout

    def _serve(self, command: str) -> None:
        server = ServerProcess(
            ["bash", "-c", f"exec {command}"],
            log_path=self.directory.parent / "server.log",
            environment=self.environment,
            directory=self.directory,
        )
        self.servers.append(server)

        def answers() -> bool:
            assert server.running, server.log_path.read_text()
            return request("GET", "/", port=self.port).status == 200

        wait_until(answers, START_SECONDS, "the server answers")

    def close(self) -> None:
        """End the server."""
        for server in self.servers:
            server.stop(signal.SIGINT)


def unified(output: str) -> str:
    """Return an output without what is another text in each run."""
    for pattern, text in VARYING.items():
        output = re.sub(pattern, text, output)
    return output


@pytest.fixture
def walk(tmp_path: Path) -> Iterator[Walk]:
    """Give a reader with a Redis."""
    with RedisServer() as redis:
        reader = Walk(tmp_path, redis)
        try:
            yield reader
        finally:
            reader.close()


@pytest.mark.timeout(600)
def test_from_nothing_to_live_settings(walk: Walk) -> None:
    walk.follow(PAGE)
    for step, seconds in walk.seconds.items():
        print(f"{step}: {seconds:.1f} s")  # noqa: T201  # for the table at the end of the page
    scripts = [path.read_text() for path in walk.directory.glob("migrations/versions/*.py")]
    assert len(scripts) == 2, "one for the shop, one for its settings, none where nothing changed"
    for script in scripts:
        upgrade = script.partition("def upgrade")[2].partition("def downgrade")[0]
        assert "op.create_table" in upgrade
        assert "drop" not in upgrade
