"""Forks writers that are killed between two of their steps.

Each line of JSON on standard input asks for one writer: its configuration, the value to set all
settings to, and the step at which it is killed. A step is a line of the package that runs, or the
beginning or end of one of its functions; its name is, say, ``sql/store.py:211`` or
``sql/store.py _commit call``. The answer tells which steps the writer took. The package knows
nothing of this: the writer traces itself.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any

from flask import Flask

from tests.support.lifecycle import Closed
from tests.support.places import PACKAGE, ROOT
from tests.support.waiting import SOON_SECONDS
from uwsgi_waffle import WaffleConf

__all__ = ["NAMES", "Crasher"]

NAMES = ("FIRST", "SECOND", "THIRD")


class Crasher(Closed):
    """The program, as a context manager."""

    def __init__(self, config: Mapping[str, object]) -> None:
        """Start it; *config* is that of each writer."""
        self._config = dict(config)
        self._program = subprocess.Popen(
            [sys.executable, "-m", __name__],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def write(self, value: int, kill_at: str | None = None) -> Sequence[str]:
        """Have a writer set all settings, killed at the first step of that name; return its steps.

        Those of a writer that was killed end with the step at which it was. Not every writer takes
        each step: the listener of its host may have read the change from SQL meanwhile.
        """
        assert self._program.stdin is not None
        assert self._program.stdout is not None
        wanted = {"config": self._config, "value": value, "kill_at": kill_at}
        self._program.stdin.write(json.dumps(wanted) + "\n")
        self._program.stdin.flush()
        answer = json.loads(self._program.stdout.readline())
        steps: list[str] = answer["steps"]
        assert steps, "the writer failed"
        assert answer["killed"] is (steps[-1] == kill_at)
        return steps

    def close(self) -> None:
        """End the program."""
        assert self._program.stdin is not None
        self._program.stdin.close()
        self._program.wait(SOON_SECONDS)
        assert self._program.stdout is not None
        self._program.stdout.close()


class _Tracer:
    """Follows what the package does, and kills the process at a step."""

    def __init__(self, kill_at: str | None, report: int) -> None:
        self._kill_at = kill_at
        self._report = report
        self._steps: list[str] = []

    def __call__(self, frame: FrameType, event: str, _argument: object) -> _Tracer | None:
        path = frame.f_code.co_filename
        if not path.startswith(PACKAGE):
            return None
        file = path.removeprefix(PACKAGE)
        if event == "line":
            self._take(f"{file}:{frame.f_lineno}")
        elif event in {"call", "return"}:
            self._take(f"{file} {frame.f_code.co_name} {event}")
        return self

    def _take(self, step: str) -> None:
        self._steps.append(step)
        if step == self._kill_at:
            self.report()
            os.kill(os.getpid(), signal.SIGKILL)

    def report(self) -> None:
        """Tell the steps so far."""
        with os.fdopen(os.dup(self._report), "w") as stream:
            json.dump(self._steps, stream)


def _write(wanted: dict[str, Any], report: int) -> None:
    app = Flask("writer", instance_path=str(ROOT))
    app.config.update(wanted["config"])
    app.config["WAFFLE_CONFS"] = {name: {"default": 0} for name in NAMES}
    waffle: WaffleConf[Any] = WaffleConf(app)
    tracer = _Tracer(wanted["kill_at"], report)
    sys.settrace(tracer)
    waffle.update(dict.fromkeys(NAMES, wanted["value"]))
    sys.settrace(None)
    tracer.report()


def main() -> None:
    """Fork a writer for each line, until the input ends."""
    for line in sys.stdin:
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            try:
                _write(json.loads(line), writing)
            finally:
                sys.stderr.flush()
                os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as stream:
            steps = stream.read()
        status = os.waitpid(pid, 0)[1]
        answer = {"killed": os.WIFSIGNALED(status), "steps": json.loads(steps or "[]")}
        print(json.dumps(answer), flush=True)  # noqa: T201  the answer


if __name__ == "__main__":
    main()
