"""One listener for each host or uWSGI instance: which process is elected, and which follows."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support import wait_until
from tests.support.programs import Program
from tests.support.waiting import SOON_SECONDS
from uwsgi_waffle.host.election import SEATS, Election
from uwsgi_waffle.host.records import HostSnapshot

#: Stands for an instance once for each line that it is sent, and prints whether it has won; or
#: whether it has won still. A winner gives a sign of life each time.
CANDIDATE = """
import pathlib, sys
from uwsgi_waffle.host import election as module
from uwsgi_waffle.host.election import Election
from uwsgi_waffle.host.records import HostSnapshot
module.STOPPED_SECONDS = 0.2
host = HostSnapshot(pathlib.Path(sys.argv[1]))
election = Election(host, int(sys.argv[2]))
for line in sys.stdin:
    won = election.is_won() if line.strip() == "still" else election.win()
    if won:
        host.beat()
    print(won, flush=True)
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
from uwsgi_waffle.host.records import HostSnapshot
host = HostSnapshot(pathlib.Path(sys.argv[1]))
assert Election(host, 7).win()
if not os.fork():
    other = Election(host, 7)
    print(other.win(), flush=True)
    for _ in sys.stdin:
        print(other.win(), flush=True)
    os._exit(0)
os.wait()
"""
    with Program(program, path) as parent:  # the child ends with its input
        assert parent.read() == "False"
        election = Election(HostSnapshot(path), 7)
        assert not election.win()
        parent.kill()
        wait_until(election.win, SOON_SECONDS, "the lock is free though a child lives on")
        election.resign()
        assert parent.ask() == "True", "the child can win it, too"


def test_one_application_of_a_process_is_elected(tmp_path: Path) -> None:
    """A record lock excludes other processes only, and one may hold several applications."""
    host = HostSnapshot(tmp_path / "snapshot")
    first, second = (Election(host, 7) for _ in range(2))
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
    obstacle = tmp_path / "snapshot.listeners"
    obstacle.mkdir()
    election = Election(HostSnapshot(tmp_path / "snapshot"), 7)
    assert election.win()
    assert election.is_won()
    assert "no listener can be elected" in caplog.text
    obstacle.rmdir()
    assert not election.is_won()
    election.resign()
    assert election.win(), "by the lock, once that can be had"
    assert election.is_won()
    assert obstacle.is_file()
    election.resign()


def test_where_the_memory_is_private_each_process_listens(tmp_path: Path) -> None:
    """Also each application of one process; until the memory is shared."""
    obstacle = tmp_path / "snapshot.lock"
    obstacle.mkdir()
    hosts = [HostSnapshot(tmp_path / "snapshot") for _ in range(2)]
    elections = [Election(host) for host in hosts]
    assert not any(host.is_shared for host in hosts)
    assert all(election.win() for election in elections)
    assert all(election.is_won() for election in elections)
    obstacle.rmdir()
    for host in hosts:
        host.verify()
    assert not any(election.is_won() for election in elections)
    assert [election.win() for election in elections] == [True, False]
    elections[0].resign()


def still_wins(candidate: Program) -> bool:
    return candidate.ask("still") == "True"


def test_a_stopped_listener_is_replaced_and_leaves_when_it_runs_again(tmp_path: Path) -> None:
    """Also its successor, where that is stopped as well; one that gives signs of life is not."""
    with ExitStack() as stack:
        path = tmp_path / "snapshot"
        standing = [stack.enter_context(Program(CANDIDATE, path, 7)) for _ in range(SEATS)]
        (listener, *others) = standing
        assert wins(listener)
        host = HostSnapshot(path)
        for _ in range(20):
            assert still_wins(listener)
            host.beat()
            assert not any(wins(other) for other in others)
        for successor in others:
            os.kill(listener.pid, signal.SIGSTOP)
            wait_until(lambda one=successor: wins(one), SOON_SECONDS, "another process listens")  # type: ignore[misc]
            listener = successor
        for stopped in standing[:-1]:
            os.kill(stopped.pid, signal.SIGCONT)
            assert not still_wins(stopped)
        assert still_wins(listener)


def test_a_host_elects_one_listener_beside_those_of_its_instances(tmp_path: Path) -> None:
    path = tmp_path / "snapshot"
    with Program(CANDIDATE, path, 0) as first, Program(CANDIDATE, path, 7) as other:
        assert wins(first)
        assert wins(other)
        assert not Election(HostSnapshot(path)).win()


def test_a_listener_whose_lock_file_was_deleted_stands_again(tmp_path: Path) -> None:
    election = Election(HostSnapshot(tmp_path / "snapshot"))
    assert election.win()
    (tmp_path / "snapshot.listeners").unlink()
    assert not election.is_won()
    election.resign()
    assert election.win()
    election.resign()
