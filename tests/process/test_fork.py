"""A plain script that forks (`os.fork`): parent and child each see the other's changes.

Servers that fork are tested under those servers.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import DATABASE_KINDS, RedisServer, fresh_database
from tests.support.programs import Program, output_of
from tests.support.soak import times


@pytest.mark.parametrize("kind", DATABASE_KINDS)
def test_parent_and_child_of_a_script_that_forks(
    redis_server: RedisServer, tmp_path: Path, kind: Any
) -> None:
    with fresh_database(kind) as url:
        finished = subprocess.run(
            [
                *(sys.executable, "-W", "ignore::DeprecationWarning", "-m", "tests.apps.forker"),
                *(url, str(tmp_path / "host" / "snapshot"), redis_server.url),
            ],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    in_child, in_parent = map(json.loads, finished.stdout.splitlines())
    assert in_child == {
        "threads_before": 0,
        "read_in_parent": 1,
        "threads_in_parent": 1,
        # Threads do not cross a fork; the child starts one of its own.
        "threads_in_child_at_once": 1,
        "connection_is_shared": False,
        "child_called_while_idle": True,
        "read_in_child": 2,
        "child_writes": 3,
    }
    assert in_parent == {"parent_sees": 5, "parent_threads": 1, "parent_still_works": 4}


#: A fork without a hook, a change in the parent, and two first requests at once in the child: the
#: second comes while the first is about to set the process up. A thread of the parent held a lock
#: at the fork.
TWO_FIRST_REQUESTS = """
import os, signal, sys, threading
from flask import Flask
from uwsgi_waffle.server import forks
from uwsgi_waffle import WaffleConf

app = Flask("forker", instance_path=sys.argv[1])
app.config.update(
    WAFFLE_CONFS={"SIZE": {"default": 1}},
    WAFFLE_DATABASE_URI=f"sqlite:///{sys.argv[1]}/waffle.db",
    WAFFLE_SNAPSHOT_PATH=f"{sys.argv[1]}/snapshot",
)
waffle = WaffleConf(app)
app.add_url_rule("/", "size", lambda: f"{waffle.settings.SIZE}")
state = app.extensions["waffleconf"]
forks._watchers.clear()
claimed, proceed = threading.Event(), threading.Event()

class HeldUp(dict):
    def setdefault(self, key, value):
        found = super().setdefault(key, value)
        if found is value:
            claimed.set()
            proceed.wait(10)
        return found

state._claims = HeldUp()
state.serving._lock.acquire()
to_child = os.pipe()
if os.fork():
    state.serving._lock.release()
    waffle.update({"SIZE": 3})
    os.write(to_child[1], b"x")
    sys.exit(os.waitstatus_to_exitcode(os.wait()[1]) != 0)
os.read(to_child[0], 1)
signal.alarm(45)  # what hangs must not outlive the test
first = threading.Thread(target=lambda: app.test_client().get("/"))
first.start()
claimed.wait(10)
threading.Timer(0.1, proceed.set).start()
assert app.test_client().get("/").text == "3", "not what the parent served at the fork"
first.join(10)
writing = threading.Thread(target=lambda: waffle.update({"SIZE": 2}), daemon=True)
writing.start()
writing.join(10)
os._exit(waffle.settings.SIZE != 2)
"""


def test_two_first_requests_at_once_in_a_child_of_a_fork_without_a_hook(tmp_path: Path) -> None:
    """The one that sets the process up drops what came through the fork, and the other waits."""
    program = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", TWO_FIRST_REQUESTS]
    subprocess.run([*program, str(tmp_path)], check=True, timeout=60)


#: Threads of the parent read, write and listen while it forks again and again; each child takes a
#: request, and would hang on a lock that a thread held at the fork.
MANY_FORKS = """
import os, signal, sys, threading
from flask import Flask
from uwsgi_waffle import WaffleConf

app = Flask("forker", instance_path=sys.argv[1])
app.config.update(
    WAFFLE_CONFS={"SIZE": {"default": 1}},
    WAFFLE_DATABASE_URI=f"sqlite:///{sys.argv[1]}/waffle.db",
    WAFFLE_SNAPSHOT_PATH=f"{sys.argv[1]}/snapshot",
    WAFFLE_REDIS_URL=sys.argv[2],
    WAFFLE_MULTIPROC=True,
)
waffle = WaffleConf(app)
app.add_url_rule("/", "size", lambda: f"{waffle.settings.SIZE}")
ended = threading.Event()

def repeat(act):
    while not ended.is_set():
        act()

def change():
    waffle.update({"SIZE": waffle.settings.SIZE + 1})
    ended.wait(0.005)

app.test_client().get("/")
for act in (lambda: app.test_client().get("/"), waffle.refresh, change):
    threading.Thread(target=repeat, args=(act,), daemon=True).start()
hung = 0
for number in range(int(sys.argv[3])):
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        os._exit(app.test_client().get("/").status_code != 200)
    hung += os.waitpid(pid, 0)[1] != 0
ended.set()
print(hung)
sys.stdout.flush()
os._exit(0)
"""


def test_no_child_hangs_on_a_lock_of_its_parent(redis_server: RedisServer, tmp_path: Path) -> None:
    forks = times(50, 300)
    assert output_of(MANY_FORKS, tmp_path, redis_server.url, forks) == "0"


#: A process that listens, and a child of it that follows it.
LISTENER_AND_CHILD = """
import os, sys, time
os.environ.update(WAFFLE_MULTIPROC="true", WAFFLE_DATABASE_URI=f"sqlite:///{sys.argv[1]}/waffle.db",
    WAFFLE_SNAPSHOT_PATH=f"{sys.argv[1]}/snapshot", WAFFLE_REDIS_URL=sys.argv[2])
from tests.apps.whole_numbers import state, waffle

def listens():
    mine = [p for p in state.host.slots.living() if p.pid == os.getpid()]
    return bool(mine) and mine[0].listener.state == "live"

waffle.settings.S000
while not listens():
    time.sleep(0.01)
if not os.fork():
    print(os.getpid(), flush=True)
    while not listens():
        time.sleep(0.01)
    print("the child listens", flush=True)
time.sleep(600)
"""


def test_a_child_does_not_keep_the_connections_of_a_listener_that_is_killed(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    """Else Redis writes to a connection that none reads, and processes wait for a dead one."""
    with Program(LISTENER_AND_CHILD, tmp_path, redis_server.url) as listener:
        child = int(listener.read())
        try:
            assert redis_server.subscribers() == 1
            listener.kill()
            assert listener.read() == "the child listens"
            assert redis_server.subscribers() == 1
        finally:
            os.kill(child, signal.SIGKILL)
