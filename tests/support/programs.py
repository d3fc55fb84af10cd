"""Small Python programs that a test runs in other processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.lifecycle import Closed

__all__ = ["Program", "output_of", "output_of_command"]

#: Ends a program that hangs.
PROGRAM_SECONDS = 60


def _command(text: str, arguments: tuple[object, ...]) -> list[str]:
    # Without warnings: programs fork on purpose.
    return [sys.executable, "-W", "ignore", "-c", text, *map(str, arguments)]


def output_of_command(
    command: Sequence[str],
    *,
    directory: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Return what a command prints; fail if the command fails."""
    done = subprocess.run(
        command,
        check=False,
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PROGRAM_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def output_of(text: str, *arguments: object) -> str:
    """Return what a program prints, without the spaces around it; fail if the program fails."""
    return output_of_command(_command(text, arguments)).strip()


class Program(Closed):
    """A program that a test talks to by lines; it is killed at the end of the block."""

    def __init__(self, text: str, *arguments: object) -> None:
        """Start it."""
        self.process = subprocess.Popen(
            _command(text, arguments), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = self.process.pid

    def read(self) -> str:
        """Return the next line that it prints; ``""`` where it has ended."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def send(self, line: str = "") -> None:
        """Send it a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def ask(self, line: str = "") -> str:
        """Send it a line, and return the next one that it prints."""
        self.send(line)
        return self.read()

    def kill(self) -> None:
        """End it by SIGKILL."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """End the program."""
        self.process.kill()
        self.process.communicate()
