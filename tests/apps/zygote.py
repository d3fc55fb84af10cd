"""Forks processes of an application, each of which answers its test over a socket.

A line of JSON on standard input asks for one process; its pid is the answer. Forking a program that
has imported everything starts a process in milliseconds.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import subprocess
import sys
from typing import Any

from flask import Flask
from pydantic import Field
from sqlalchemy import create_engine

from tests.support.waiting import SOON_SECONDS, wait_until
from uwsgi_waffle import NotConverged, WaffleConf, WaffleError, WaffleSettings
from uwsgi_waffle.bus import reports
from uwsgi_waffle.listen import reporter
from uwsgi_waffle.ops.convergence import own_host
from uwsgi_waffle.process.state import State
from uwsgi_waffle.sql.maintenance import resync


class NewRelease(WaffleSettings):
    """Allows large sizes."""

    SIZE: int = Field(1, le=10_000)


class OldRelease(WaffleSettings):
    """Refuses what the new release allows."""

    SIZE: int = Field(1, le=100)


RELEASES = {"new": NewRelease, "old": OldRelease}


def main() -> None:
    """Fork a process for each line, until the input ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps them
    vars(reports)["SILENT_SECONDS"] = float(sys.argv[1])
    vars(reporter)["REPORT_SECONDS"] = float(sys.argv[1]) / 8
    create_engine("sqlite://").dispose()  # has its dialect imported
    gc.freeze()  # a process need not look at, and so copy, what it has from here
    for line in sys.stdin:
        wanted = json.loads(line)
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _serve(wanted)
            os._exit(0)
        print(pid, flush=True)  # noqa: T201  # the answer


def _serve(wanted: dict[str, Any]) -> None:
    """Run one process of the application until its socket closes."""
    app = Flask("model", instance_path=wanted["directory"])
    app.config.update(wanted["config"])
    waffle: WaffleConf[Any] = WaffleConf(app, RELEASES[wanted["release"]])
    state: State = app.extensions["waffleconf"]
    state.adopt_process()
    # A process counts from its first report on, a moment after its start.
    wait_until(lambda: _is_reported(state), SOON_SECONDS, "the process is reported")
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(wanted["socket"])
        with connection.makefile("rw") as stream:
            stream.write(f"{state.host.host_id}\n")
            stream.flush()
            for line in stream:
                stream.write(json.dumps(_answer(waffle, state, json.loads(line))) + "\n")
                stream.flush()


def _is_reported(state: State) -> bool:
    own = own_host(state)
    hosts = state.reports.read(own.position.lineage).hosts
    return any(host.id == own.id and host.following == own.following for host in hosts)


def _named(error: NotConverged) -> list[list[Any]]:
    """Return the id of each host that a reason names, and the pid that it names, or 0."""
    ids = {error.fleet.label(host): host.id for host in error.fleet.hosts}
    hosts = [[ids.get(m.host, ""), m.process.pid if m.process else 0] for m in error.missing]
    return hosts + [[ids[refusal.host], refusal.pid] for refusal in error.refused]


def _answer(  # noqa: PLR0911  # one for each question
    waffle: WaffleConf[Any], state: State, question: dict[str, Any]
) -> object:
    match question["ask"]:
        case "serves":
            served = state.serving.current
            state_of = f"{served.position.lineage}:{served.position.stamp}"
            return [state_of, served.settings.SIZE, bool(served.refused)]  # type: ignore[attr-defined]
        case "update":
            try:
                return waffle.update({"SIZE": question["size"]}).revision
            except WaffleError as error:
                return str(error)
        case "wait":
            try:
                return {"yes": True, "fleet": str(waffle.wait(0, question["seconds"]))}
            except NotConverged as error:
                return {"yes": False, "fleet": str(error), "named": _named(error)}
        case "status":
            fleet = waffle.status().fleet
            return {"yes": not fleet.missing and not fleet.refused, "fleet": str(fleet)}
        case "resync":
            seen = [host.position for host in waffle.status().hosts]
            record = resync(state.store, seen)
            if record is not None:
                state.writer.spread(record)
            return None
        case "child":
            child = subprocess.Popen(["sleep", "60"], preexec_fn=lambda: None)  # noqa: PLW1509, S607
            return child.pid
    raise AssertionError(question)


if __name__ == "__main__":
    main()
