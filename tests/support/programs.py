"""Small Python programs that a test runs in other processes."""

from __future__ import annotations

import contextlib
import os
import select
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.lifecycle import Closed
from tests.support.quick_start import run, start

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
    done = run(command, seconds=PROGRAM_SECONDS, directory=directory, environment=environment)
    assert done.status == 0, done.errors
    return done.output


def output_of(text: str, *arguments: object) -> str:
    """Return what a program prints, without the spaces around it; fail if the program fails."""
    return output_of_command(_command(text, arguments)).strip()


class Program(Closed):
    """A program that a test talks to by lines; it is killed at the end of the block."""

    def __init__(self, text: str, *arguments: object, quick: bool = True) -> None:
        """Start it; *quick* is that of :func:`start`."""
        with contextlib.ExitStack() as its:
            stdin, ours = os.pipe()
            its.callback(os.close, stdin)
            self._stdin = os.fdopen(ours, "w")
            ours, stdout = os.pipe()
            its.callback(os.close, stdout)
            self._stdout = os.fdopen(ours)
            self.process = start(_command(text, arguments), stdin=stdin, stdout=stdout, quick=quick)
        self.pid = self.process.pid

    def read(self) -> str:
        """Return the next line that it prints; ``""`` where it has ended."""
        return self._stdout.readline().strip()

    def has_printed(self, *, within_seconds: float) -> bool:
        """Return whether there is something to read, or is in so many seconds."""
        return bool(select.select([self._stdout], [], [], within_seconds)[0])

    def send(self, line: str = "") -> None:
        """Send it a line."""
        self._stdin.write(f"{line}\n")
        self._stdin.flush()

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
        self.kill()
        self._stdout.close()
        with contextlib.suppress(BrokenPipeError):  # of what it has not read
            self._stdin.close()
