"""A process of a host that writes and waits, as a command does; killed at any moment.

The program answers each line of JSON on its standard input with one on its standard output.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from types import FrameType
from typing import Any

from tests.support.places import PACKAGE, ROOT
from tests.support.processes import START_SECONDS
from tests.support.waiting import SOON_SECONDS

__all__ = ["Writer", "WriterGone"]


class WriterGone(OSError):
    """The writer ended, or did not answer in time; what it was asked may be done or not."""


class Writer:
    """The program, started when it is asked for something, again if it was killed."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Start nothing yet."""
        self._environment = {
            **{name: text for name, text in os.environ.items() if not name.startswith("WAFFLE_")},
            **environment,
            "PYTHONPATH": str(ROOT),
            "WAFFLE_LISTENER": "none",
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._received = b""
        self._number = 0
        self.starts = 0

    @property
    def pid(self) -> int | None:
        """Its pid, ``None`` while it does not run."""
        process = self._process
        return None if process is None or process.poll() is not None else process.pid

    def ask(self, *, within_seconds: float = 10.0, **question: object) -> dict[str, Any]:
        """Return the answer to a question.

        :raises WriterGone: there is none
        """
        process = self._running()
        self._number += 1
        line = json.dumps({**question, "number": self._number}) + "\n"
        assert process.stdin is not None
        try:
            process.stdin.write(line.encode())
            process.stdin.flush()
        except OSError as error:
            raise WriterGone(str(error)) from error
        deadline = time.monotonic() + within_seconds
        while True:
            answer: dict[str, Any] = json.loads(self._line(process, deadline))
            if answer.get("number") == self._number:  # else one that came too late
                return answer

    def _line(self, process: subprocess.Popen[bytes], deadline: float) -> bytes:
        assert process.stdout is not None
        while b"\n" not in self._received:
            wait_seconds = max(deadline - time.monotonic(), 0)
            if not select.select([process.stdout], [], [], wait_seconds)[0]:
                message = f"pid {process.pid} does not answer"
                raise WriterGone(message)
            part = os.read(process.stdout.fileno(), 65_536)
            if not part:
                message = f"pid {process.pid} ended"
                raise WriterGone(message)
            self._received += part
        line, _, self._received = self._received.partition(b"\n")
        return line

    def _running(self) -> subprocess.Popen[bytes]:
        process = self._process
        if process is not None and process.poll() is None:
            return process
        self.close()
        self._received = b""
        self.starts += 1
        process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            cwd=ROOT,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._process = process
        self._line(process, time.monotonic() + START_SECONDS)
        return process

    def close(self) -> None:
        """Kill it."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait(SOON_SECONDS)
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except OSError:  # what was still to be written
                continue


class _Killer:
    """Kills this process after so many lines of the package."""

    def __init__(self, steps: int) -> None:
        self._steps = steps

    def __call__(self, frame: FrameType, event: str, _argument: object) -> _Killer | None:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "line":
            self._steps -= 1
            if self._steps <= 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return self


def main() -> None:
    """Answer each line until the input ends."""
    from tests.machine.app import waffle
    from uwsgi_waffle import WaffleError

    print("{}", flush=True)  # noqa: T201  it is ready
    for line in sys.stdin:
        question = json.loads(line)
        answer: dict[str, object] = {"number": question["number"]}
        try:
            if question["do"] == "update":
                if "kill_after" in question:
                    sys.settrace(_Killer(question["kill_after"]))
                answer["revision"] = waffle.update(question["values"]).revision
                sys.settrace(None)
            else:
                fleet = waffle.wait(question["revision"], question["seconds"])
                hosts = (replace(host, processes=()) for host in fleet.hosts)
                answer.update(
                    revision=fleet.revision, fleet="\n    ".join(map(str, [fleet, *hosts]))
                )
        except WaffleError as error:
            answer["error"] = str(error)
        print(json.dumps(answer), flush=True)  # noqa: T201  # the answer


if __name__ == "__main__":
    main()
