"""A Python that has loaded the libraries, and forks itself for each program that it is asked for.

Half a second of computing goes into the imports of an application, milliseconds into a fork. A
forked program has its own arguments, environment, directory, files and exit status, and has
imported nothing of this project. Started by :mod:`tests.support.quick_start`.
"""

from __future__ import annotations

import os
import sys

# The folder of this file, whose modules are not for everyone.
sys.path.pop(0)

import array
import contextlib
import gc
import importlib
import json
import runpy
import select
import socket
import struct
import types
import warnings
from pathlib import Path
from typing import Any

#: What the programs need, but for what some of them must not have, such as gevent.
LIBRARIES = (
    *("flask.cli", "flask.testing", "jinja2.ext", "pydantic.dataclasses", "pydantic.type_adapter"),
    *("redis", "redis.sentinel", "redis.cluster", "sqlalchemy.dialects.mysql"),
    *("sqlalchemy.dialects.sqlite", "sqlalchemy.ext.compiler"),
    *("logging.config", "multiprocessing.util", "sqlite3", "uuid"),
    *("flask_wtf", "psycopg", "pymysql"),
)


#: The variable of a program that holds what it was asked for: a uWSGI that reloads itself executes
#: the command line of its process, which is that of this file.
REQUEST = "QUICK_START"


def serve() -> dict[str, Any] | None:
    """Fork for each request; return it in the child, and nothing once the test has ended."""
    control = socket.socket(fileno=0)
    poll = select.poll()
    poll.register(control, select.POLLIN)
    running: dict[int, tuple[int, int]] = {}  # pidfd -> pid, and where to tell its exit status
    while True:
        for descriptor, _ in poll.poll():
            if descriptor != control.fileno():
                poll.unregister(descriptor)
                pid, told = running.pop(descriptor)
                _tell(told, os.waitpid(pid, 0)[1])
                os.close(descriptor)
                os.close(told)
                continue
            text, ancillary, _, _ = control.recvmsg(1 << 20, socket.CMSG_SPACE(4 * 4))
            if not text:
                return None
            files = array.array("i", ancillary[0][2])
            pid = os.fork()
            if pid == 0:
                control.detach()
                request: dict[str, Any] = json.loads(text)
                _take(files[:3])
                return request
            _tell(files[3], pid)
            for file in files[:3]:
                os.close(file)
            pidfd = os.pidfd_open(pid)
            running[pidfd] = pid, files[3]
            poll.register(pidfd, select.POLLIN)


def _tell(descriptor: int, number: int) -> None:
    try:
        os.write(descriptor, struct.pack("i", number))
    except BrokenPipeError:  # who started the program does not wait for it any more
        return


def _take(files: array.array[int]) -> None:
    """Make files the standard ones, and close all others."""
    for standard, file in enumerate(files):
        os.dup2(file, standard)
    os.closerange(3, max(int(file.name) for file in Path("/proc/self/fd").iterdir()) + 1)


def _become(request: dict[str, Any]) -> None:
    """Give this process what the system and Python give to one that they start."""
    if request["new_session"]:
        os.setsid()
    os.chdir(request["directory"])
    os.environ.clear()
    os.environ.update(request["environment"], **{REQUEST: json.dumps(request)})
    path = os.environ.get("PYTHONPATH", "")
    sys.path[:0] = path.split(os.pathsep) if path else []


def _run(request: dict[str, Any]) -> None:
    kind, what = request["kind"], request["what"]
    for option in request["warnings"]:
        sys.warnoptions.append(option)
        warnings.simplefilter(option)
    sys.path.insert(0, request["first_path"])
    sys.argv = request["arguments"]
    sys.orig_argv = request["command"]
    if kind == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    elif kind == "-c":
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(what, "<string>", "exec"), main.__dict__)  # noqa: S102  # what -c does
    else:
        runpy.run_path(what, run_name="__main__")


def main() -> None:
    """Fork for each request, and run the program in the child; or run the one it had become."""
    for library in LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(library)
    gc.collect()
    gc.freeze()  # so that a child does not copy what it only looks at
    if REQUEST in os.environ:
        _run(json.loads(os.environ[REQUEST]))
        return
    request = serve()
    if request is not None:
        _become(request)
        _run(request)


if __name__ == "__main__":
    main()
