"""A host whose last process has ended in an orderly way is not waited for, whatever started it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import RedisServer
from tests.support.places import ROOT

#: What the children of both programs do: they follow, until their host is reported.
CHILD = """
import multiprocessing, os, sys, time
import redis

def follow():
    import tests.apps.whole_numbers as site
    site.waffle.settings.S000
    with redis.Redis.from_url(os.environ["WAFFLE_REDIS_URL"]) as client:
        deadline = time.monotonic() + 30
        while not client.keys("*:hosts"):
            assert time.monotonic() < deadline
            time.sleep(0.02)
"""

#: The parent, as with Granian, does not load the application.
CHILD_OF_MULTIPROCESSING = """
if __name__ == "__main__":
    child = multiprocessing.get_context("fork").Process(target=follow)
    child.start()
    child.join()
    os._exit(child.exitcode)
"""

#: The application is loaded before the fork, so the child follows before multiprocessing is ready.
CHILD_OF_A_LOADED_PARENT = f"import tests.apps.whole_numbers\n{CHILD_OF_MULTIPROCESSING}"

#: As with Celery, whose children end without Python's own end.
PARENT_OF_CHILDREN_THAT_EXIT_AT_ONCE = """
import tests.apps.whole_numbers
child = os.fork()
if not child:
    follow()
    os._exit(0)
_, status = os.waitpid(child, 0)
sys.exit(os.waitstatus_to_exitcode(status))
"""

#: As a test does, whose directory goes before its process does.
ONE_WITHOUT_A_DIRECTORY = """
import pathlib, shutil
follow()
shutil.rmtree(pathlib.Path(os.environ["WAFFLE_SNAPSHOT_PATH"]).parent)
"""


@pytest.mark.parametrize(
    "program",
    [
        pytest.param(CHILD_OF_MULTIPROCESSING, id="fork"),
        pytest.param(CHILD_OF_A_LOADED_PARENT, id="loaded"),
        pytest.param(PARENT_OF_CHILDREN_THAT_EXIT_AT_ONCE, id="os-exit"),
        pytest.param(ONE_WITHOUT_A_DIRECTORY, id="removed"),
    ],
)
def test_the_last_process_takes_its_host_back(
    redis_server: RedisServer, tmp_path: Path, program: str
) -> None:
    (tmp_path / "program.py").write_text(CHILD + program)
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", tmp_path / "program.py"],
        check=True,
        timeout=60,
        stderr=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "WAFFLE_MULTIPROC": "true",
            "WAFFLE_REDIS_URL": redis_server.url,
            "WAFFLE_DATABASE_URI": f"sqlite:///{tmp_path}/waffle.db",
            "WAFFLE_SNAPSHOT_PATH": str(tmp_path / "shared" / "snapshot"),
        },
    )
    assert done.stderr == ""
    with redis_server.client() as client:
        assert client.keys("*:hosts") == []
