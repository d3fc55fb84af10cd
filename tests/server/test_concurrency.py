"""Where a loop runs beside the requests: one contract, in a thread and in a greenlet."""

from __future__ import annotations

import pytest

from tests.support.programs import output_of

#: The contract, as a program, so that gevent's patches stay in its process.
CONTRACT = """
import sys, threading, time
kind = sys.argv[1]
if kind == "gevent":
    from gevent import monkey
    monkey.patch_all()
from uwsgi_waffle.server.concurrency import (
    GreenletEnvironment, ThreadEnvironment, choose_environment
)

environment = choose_environment()
assert type(environment) is {"gevent": GreenletEnvironment, "thread": ThreadEnvironment}[kind]
turns = []

def loop(stop):
    while not stop.wait(0.005):
        turns.append(len(turns))

assert not environment.is_alive()
environment.start(loop)
deadline = time.monotonic() + 10
while len(turns) < 3:
    assert time.monotonic() < deadline, "the loop turns while the process does other things"
    time.sleep(0.005)
assert environment.is_alive()
environment.stop(5.0)
assert not environment.is_alive(), "the loop ends when it is asked to"
before = len(turns)
time.sleep(0.05)
assert len(turns) == before

never_started = choose_environment()
never_started.stop(0.1)
assert not never_started.is_alive()

choose_environment().start(lambda stop: threading.Event().wait())  # it never ends, yet this does
"""


@pytest.mark.parametrize("kind", ["thread", "gevent"])
def test_the_environments_keep_one_contract(kind: str) -> None:
    """A loop starts, turns beside other work, stops when asked, and never holds its process up."""
    output_of(CONTRACT, kind)


def test_where_gevent_has_not_patched_a_loop_runs_in_a_thread() -> None:
    """A greenlet with blocking sockets would freeze the whole process."""
    output_of("""
import gevent
from uwsgi_waffle.server.concurrency import ThreadEnvironment, choose_environment
assert type(choose_environment()) is ThreadEnvironment
""")
