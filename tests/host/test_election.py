"""One listener for each uWSGI instance: who is elected, and who follows when it dies."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support import wait_until
from uwsgi_waffle.host.election import Election

#: Stands for an instance once for each line that it is sent, and tells whether it has won.
CANDIDATE = """
import pathlib, sys
from uwsgi_waffle.host.election import Election
election = Election(pathlib.Path(sys.argv[1]), int(sys.argv[2]))
print("ready", flush=True)
for _ in sys.stdin:
    print(election.win(), flush=True)
"""


class Candidate:
    """A candidate in a process of its own."""

    def __init__(self, path: Path, instance: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CANDIDATE, str(path), str(instance)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def read(self) -> str:
        """Return the next line that it prints."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def wins(self) -> bool:
        """Have it stand, and return whether it has won."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.read() == "True"

    def kill(self) -> None:
        """End it by SIGKILL."""
        self.process.kill()
        self.process.communicate()


@contextmanager
def candidates(path: Path, *instances: int) -> Iterator[list[Candidate]]:
    """Give a candidate for each of the instances named."""
    with ExitStack() as stack:
        made = []
        for instance in instances:
            made.append(Candidate(path, instance))
            stack.callback(made[-1].kill)
        for candidate in made:
            assert candidate.read() == "ready"
        yield made


def test_one_process_wins_and_the_next_takes_over_when_it_is_killed(tmp_path: Path) -> None:
    with candidates(tmp_path / "snapshot", 7, 7, 7) as standing:
        winners: list[bool] = []
        while standing:
            wins = [candidate.wins() for candidate in standing]
            assert wins.count(True) == 1
            assert [candidate.wins() for candidate in standing] == wins, "it stays the listener"
            standing.pop(wins.index(True)).kill()
            winners.append(True)
        assert len(winners) == 3


def test_instances_that_share_a_host_snapshot_do_not_compete(tmp_path: Path) -> None:
    with candidates(tmp_path / "snapshot", 7, 8) as standing:
        assert [candidate.wins() for candidate in standing] == [True, True]


def test_forked_children_do_not_inherit_the_office(tmp_path: Path) -> None:
    """Neither do they hold it when their parent is gone."""
    path = tmp_path / "snapshot"
    program = f"""
import os, pathlib, sys
from uwsgi_waffle.host.election import Election
election = Election(pathlib.Path({str(path)!r}), 7)
assert election.win()
if not os.fork():
    other = Election(pathlib.Path({str(path)!r}), 7)
    print(other.win(), flush=True)
    sys.stdin.readline()
    print(other.win(), flush=True)
    sys.stdin.read()
    os._exit(0)
os.wait()
"""
    parent = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "False\n"
        election = Election(path, 7)
        assert not election.win()
        parent.kill()
        wait_until(election.win, 10, "the office is free though a child lives on")
        election.resign()
        assert parent.stdin is not None
        parent.stdin.write("\n")
        parent.stdin.flush()
        assert parent.stdout.readline() == "True\n", "it can be had by the child, too"
    finally:
        parent.kill()
        parent.communicate()  # the child ends with its input


def test_one_application_of_a_process_is_elected(tmp_path: Path) -> None:
    """A record lock keeps out other processes only, and one may hold several applications."""
    first, second = (Election(tmp_path / "snapshot", 7) for _ in range(2))
    assert first.win()
    assert not second.win()
    second.resign()
    assert not second.win(), "who does not hold the office gives nothing back"
    first.resign()
    assert second.win()
    second.resign()


def test_where_nobody_can_be_elected_everybody_listens(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two listeners do no harm; none, or a mule that dies of it for ever, does."""
    election = Election(tmp_path / "no such folder" / "snapshot", 7)
    assert election.win()
    assert "no listener can be elected" in caplog.text
    (tmp_path / "no such folder").mkdir()
    election.resign()
    assert election.win(), "and once the folder is there, by the lock"
    assert (tmp_path / "no such folder" / "snapshot.listeners").exists()
    election.resign()
