"""A host snapshot that is deleted, replaced or cut short under those who have it mapped."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import require
from uwsgi_waffle.host import HostSnapshot, layout
from uwsgi_waffle.values.snapshot import Record

LINEAGE = "00000000000000aa"
FIRST = Record(LINEAGE, 1, {"A": "1"})
SECOND = Record(LINEAGE, 2, {"A": "2"})

#: Maps the file; for each line that it is sent, tells what it finds there.
READER = """
import pathlib, sys
from uwsgi_waffle.host import HostSnapshot
host = HostSnapshot(pathlib.Path(sys.argv[1]))
print(host.position[1], flush=True)
for _ in sys.stdin:
    host.sequence
    print(host.position[1], flush=True)
"""

#: Serves from a host snapshot that is cut short before it forks as uWSGI does: in C, so that no
#: hook of Python's runs, and the child is set up by its first request.
FORKS_IN_C = """
import ctypes, os, sys
from flask import Flask
from uwsgi_waffle import WaffleConf
app = Flask("forks")
app.config["WAFFLE_CONFS"] = {"A": {"desc": "A", "default": 1}}
app.config["WAFFLE_DATABASE_URI"] = f"sqlite:///{sys.argv[1]}/waffle.db"
app.config["WAFFLE_SNAPSHOT_PATH"] = f"{sys.argv[1]}/snapshot"
waffle = WaffleConf(app)
app.add_url_rule("/", view_func=lambda: str(waffle.settings.A))
waffle.update({"A": 7})
os.truncate(f"{sys.argv[1]}/snapshot", 0)
pid = ctypes.PyDLL(None).fork()
if not pid:
    answer = app.test_client().get("/").text
    os._exit(0 if answer == "7" else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def opened_anew(host: HostSnapshot) -> bool:
    """Open the file as a process that is started does."""
    return HostSnapshot(host.path).is_shared


@pytest.mark.parametrize("find_out", [HostSnapshot.verify, opened_anew])
@pytest.mark.parametrize("length", [0, layout.AREAS_OFFSET, layout.FILE_BYTES - 1])
def test_a_file_cut_short_is_healed_for_all_by_the_first_who_finds_out(
    length: int, find_out: Callable[[HostSnapshot], bool], tmp_path: Path
) -> None:
    """To touch memory beyond the end of a file kills (SIGBUS): no worker dies of that for long."""
    host = HostSnapshot(tmp_path / "snapshot")
    host.publish(FIRST)
    reader = subprocess.Popen(
        [sys.executable, "-c", READER, str(host.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert reader.stdin is not None
        assert reader.stdout is not None
        assert reader.stdout.readline() == "1\n"
        os.truncate(host.path, length)
        assert find_out(host)
        host.verify()
        assert host.publish(SECOND)
        # The reader notices at its next look, or, where its own pages were not among those lost,
        # when it is told that there is something new.
        reader.stdin.write("look\nlook\n")
        reader.stdin.flush()
        found = [reader.stdout.readline() for _ in range(2)]
        assert reader.poll() is None, f"it died: {reader.returncode}"
        assert found == ["2\n", "2\n"]
    finally:
        reader.kill()
        reader.communicate()


def test_a_child_of_a_process_whose_file_was_cut_short_serves(tmp_path: Path) -> None:
    """A prefork master keeps its mapping for ever, so each of its workers would be killed."""
    subprocess.run([sys.executable, "-c", FORKS_IN_C, str(tmp_path)], check=True, timeout=60)


def test_whoever_moves_to_a_new_file_tells_those_who_have_the_old_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Else they would serve what is in the old one until they happen to look."""
    host, busy = (HostSnapshot(tmp_path / "snapshot") for _ in range(2))
    host.publish(FIRST)
    seen = busy.sequence
    host.path.unlink()

    assert host.publish(SECOND)

    assert busy.sequence != seen, "what every request compares"
    assert busy.position() == (LINEAGE, 2)
    assert caplog.records == [], "nothing was wrong with the record"


def test_a_new_file_never_repeats_a_number_seen_in_the_old_one(tmp_path: Path) -> None:
    """A process that compares numbers must see that there is something new."""
    host = HostSnapshot(tmp_path / "snapshot")
    seen = set()
    for revision in range(1, 6):
        host.publish(Record(LINEAGE, revision, {}))
        seen.add(host.sequence)
        host.path.unlink()
        assert host.verify()
        assert host.sequence == 0
    assert len(seen) == 5


def test_what_a_process_has_said_of_itself_moves_with_it(tmp_path: Path) -> None:
    """Who waits for a revision does not wait for ever after the file was lost."""
    host = HostSnapshot(tmp_path / "snapshot")
    host.register("worker", 3, 77, follows=True)
    host.slots.record(LINEAGE, 5)
    host_id = host.host_id
    host.path.unlink()
    assert host.verify()
    (found,) = host.slots.living()
    assert (found.role, found.worker, found.master) == ("worker", 3, 77)
    assert (found.lineage, found.revision) == (LINEAGE, 5)
    assert host.host_id == host_id, "it is the same host"


def test_a_file_that_cannot_be_replaced_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A listener looks four times a second."""
    path = tmp_path / "snapshot"
    path.mkdir()
    host = HostSnapshot(path)
    for _ in range(5):
        assert not host.verify()
    assert len(caplog.records) == 1
    assert host.publish(FIRST)
    path.rmdir()
    assert host.verify(), "it is used as soon as it can be"
    assert host.is_shared


def test_what_a_process_left_that_was_killed_while_it_made_the_file_is_removed(
    tmp_path: Path,
) -> None:
    leftover, of_another = tmp_path / ".snapshot.abcd1234", tmp_path / ".snapshot2.abcd1234"
    for path in (leftover, of_another):
        path.touch()
    assert HostSnapshot(tmp_path / "snapshot").is_shared
    assert not leftover.exists()
    assert of_another.exists()


@pytest.mark.parametrize("number", [1, 2**63, layout.WORD_MAX - 1, layout.WORD_MAX])
def test_garbage_in_the_number_of_the_record_does_no_harm(number: int, tmp_path: Path) -> None:
    host = HostSnapshot(tmp_path / "snapshot")
    host.publish(FIRST)
    host.words[layout.SEQUENCE_WORD] = number
    assert host.read() is None
    for record in (FIRST, SECOND):
        assert host.publish(record)
        found = host.read()
        assert found is not None
        assert found[1] == record


def without_privileges(program: str, path: Path) -> str:
    """Return what a program prints that an ordinary user runs on a path."""
    require(os.geteuid() == 0, "the right to become another user (root)")
    drop = "import os\nos.setgroups([])\nos.setgid(65534)\nos.setuid(65534)\n"
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS + drop + program, str(path)],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.stdout


IMPORTS = """
import sys, pathlib
from uwsgi_waffle.host import HostSnapshot
from uwsgi_waffle.values.snapshot import Record
"""

PUBLISH = """
host = HostSnapshot(pathlib.Path(sys.argv[1]))
print(host.is_shared, host.publish(Record("00000000000000aa", 1, {})), host.position[1])
"""

#: As a file system does that has no room left, for a process that may write no large file.
LIMITED = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
"""


@pytest.fixture
def directory_of_nobody() -> Iterator[Path]:
    """Give a directory that an ordinary user owns and reaches, unlike pytest's."""
    require(os.geteuid() == 0, "the right to give a directory away (root)")
    with tempfile.TemporaryDirectory() as name:
        os.chown(name, 65534, 65534)
        yield Path(name)


def test_a_directory_that_cannot_be_written_is_bypassed(directory_of_nobody: Path) -> None:
    path = directory_of_nobody / "snapshot"
    directory_of_nobody.chmod(0o500)
    assert without_privileges(PUBLISH, path) == "False True 1\n"
    directory_of_nobody.chmod(0o700)
    assert without_privileges(PUBLISH, path) == "True True 1\n"
    directory_of_nobody.chmod(0o500)
    assert without_privileges(PUBLISH, path) == "True False 1\n", "the file that is there will do"


def test_a_limit_on_the_size_of_files_is_bypassed(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS + LIMITED + PUBLISH, str(tmp_path / "snapshot")],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "False True 1\n"
    assert "cannot be used" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["snapshot.lock"]
