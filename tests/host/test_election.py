"""One listener for each uWSGI instance: which process is elected, and which follows it."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support import wait_until
from tests.support.programs import Program
from tests.support.waiting import SOON_SECONDS
from uwsgi_waffle.host.election import Election

#: Stands for an instance once for each line that it is sent, and prints whether it has won.
CANDIDATE = """
import pathlib, sys
from uwsgi_waffle.host.election import Election
election = Election(pathlib.Path(sys.argv[1]), int(sys.argv[2]))
for _ in sys.stdin:
    print(election.win(), flush=True)
"""


def wins(candidate: Program) -> bool:
    return candidate.ask() == "True"


def test_one_process_wins_and_another_takes_over_when_it_is_killed(tmp_path: Path) -> None:
    with ExitStack() as stack:
        standing = [
            stack.enter_context(Program(CANDIDATE, tmp_path / "snapshot", 7)) for _ in range(3)
        ]
        while standing:
            won = [wins(candidate) for candidate in standing]
            assert won.count(True) == 1
            assert [wins(candidate) for candidate in standing] == won, "it stays the listener"
            standing.pop(won.index(True)).kill()


def test_instances_that_share_a_host_snapshot_do_not_compete(tmp_path: Path) -> None:
    path = tmp_path / "snapshot"
    with Program(CANDIDATE, path, 7) as first, Program(CANDIDATE, path, 8) as second:
        assert wins(first)
        assert wins(second)


def test_a_forked_child_does_not_inherit_the_lock(tmp_path: Path) -> None:
    """It does not hold it after the end of its parent either."""
    path = tmp_path / "snapshot"
    program = """
import os, pathlib, sys
from uwsgi_waffle.host.election import Election
path = pathlib.Path(sys.argv[1])
assert Election(path, 7).win()
if not os.fork():
    other = Election(path, 7)
    print(other.win(), flush=True)
    for _ in sys.stdin:
        print(other.win(), flush=True)
    os._exit(0)
os.wait()
"""
    with Program(program, path) as parent:  # the child ends with its input
        assert parent.read() == "False"
        election = Election(path, 7)
        assert not election.win()
        parent.kill()
        wait_until(election.win, SOON_SECONDS, "the lock is free though a child lives on")
        election.resign()
        assert parent.ask() == "True", "the child can win it, too"


def test_one_application_of_a_process_is_elected(tmp_path: Path) -> None:
    """A record lock excludes other processes only, and one may hold several applications."""
    first, second = (Election(tmp_path / "snapshot", 7) for _ in range(2))
    assert first.win()
    assert not second.win()
    second.resign()
    assert not second.win(), "a candidate that has not won gives nothing back"
    first.resign()
    assert second.win()
    second.resign()


def test_where_no_process_can_be_elected_each_candidate_listens(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two listeners are harmless; none, or a mule that dies of it again and again, is not."""
    election = Election(tmp_path / "no such folder" / "snapshot", 7)
    assert election.win()
    assert "no listener can be elected" in caplog.text
    (tmp_path / "no such folder").mkdir()
    election.resign()
    assert election.win(), "by the lock, once the folder exists"
    assert (tmp_path / "no such folder" / "snapshot.listeners").exists()
    election.resign()
