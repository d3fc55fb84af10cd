"""A host snapshot that is deleted, replaced or cut short while processes have it mapped."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.host.states import at, record
from tests.support import require
from tests.support.programs import Program, output_of
from uwsgi_waffle.host import areas, layout
from uwsgi_waffle.host.records import HostSnapshot
from uwsgi_waffle.values.snapshot import RefusedValue

#: Maps the file, and prints the revision that it finds for each line that it is sent.
READER = """
import pathlib, sys
from uwsgi_waffle.host.records import HostSnapshot
host = HostSnapshot(pathlib.Path(sys.argv[1]))
for _ in sys.stdin:
    host.sequence
    print(host.position.revision, flush=True)
"""

#: Serves from a host snapshot that is cut short before it forks as uWSGI does: in C, so that no
#: hook of Python runs, and the child is set up by its first request.
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


@pytest.fixture
def host(tmp_path: Path) -> HostSnapshot:
    """Give a host snapshot at revision 1."""
    host = HostSnapshot(tmp_path / "snapshot")
    host.publish(record(1))
    return host


def opened_anew(host: HostSnapshot) -> bool:
    """Open the file as a process that starts does."""
    return HostSnapshot(host.path).is_shared


@pytest.mark.parametrize("find_out", [HostSnapshot.verify, opened_anew])
@pytest.mark.parametrize("length", [0, layout.AREAS_OFFSET, layout.FILE_BYTES - 1])
def test_the_first_process_that_finds_a_file_cut_short_repairs_it_for_all(
    length: int, find_out: Callable[[HostSnapshot], bool], host: HostSnapshot
) -> None:
    """To touch memory beyond the end of a file kills a process (SIGBUS)."""
    with Program(READER, host.path) as reader:
        assert reader.ask() == "1"
        os.truncate(host.path, length)
        assert find_out(host)
        host.verify()
        assert host.publish(record(2))
        # The reader notices at its next look, or, where its own pages were not among those lost,
        # at its first look after a change.
        found = [reader.ask() for _ in range(2)]
        assert reader.process.poll() is None, "it lives"
        assert found == ["2", "2"]


def test_a_child_of_a_process_whose_file_was_cut_short_serves(tmp_path: Path) -> None:
    """A prefork master keeps its mapping for ever, so each of its workers would be killed."""
    output_of(FORKS_IN_C, tmp_path)


def test_a_process_that_moves_to_a_new_file_leads_the_others_there(
    host: HostSnapshot, caplog: pytest.LogCaptureFixture
) -> None:
    """Else they would serve the record of the old file until they happen to verify it."""
    busy = HostSnapshot(host.path)
    seen = busy.sequence
    host.path.unlink()
    assert host.publish(record(2))
    assert busy.sequence != seen, "the number that every request compares"
    assert busy.position == at(2)
    assert caplog.records == [], "the record was not damaged"


def deleted(path: Path) -> None:
    path.unlink()


def replaced(path: Path) -> None:
    other = HostSnapshot(path.with_name("other"))
    other.publish(record(1))
    other.path.rename(path)


@pytest.mark.parametrize("lost", [deleted, replaced])
def test_a_process_that_starts_leads_the_others_to_the_new_file(
    lost: Callable[[Path], None], host: HostSnapshot
) -> None:
    """It never mapped the file that they still serve from, and no listener may run to find out."""
    for revision in (2, 3):
        seen = host.sequence
        lost(host.path)
        started = HostSnapshot(host.path)
        assert started.publish(record(revision))
        assert host.sequence != seen, "the number that every request compares"
        assert host.position == at(revision)


def test_a_file_that_is_in_place_is_left_as_it_is(host: HostSnapshot) -> None:
    """Whatever the second name belongs to: another program may have moved the files."""
    second, seen = host.path.with_name("snapshot.second"), host.sequence
    assert HostSnapshot(host.path).sequence == seen
    second.unlink()
    second.write_text("not a snapshot")
    assert HostSnapshot(host.path).sequence == seen
    assert host.path.samefile(second)


def test_a_record_that_a_killed_writer_never_put_in_use_keeps_no_process_at_a_deleted_file(
    host: HostSnapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is whole, and bears the number that would have come next."""
    busy, writer = HostSnapshot(host.path), HostSnapshot(host.path)
    write = areas.write

    def write_and_die(*arguments: Any) -> None:
        write(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(areas, "write", write_and_die)
    with pytest.raises(KeyboardInterrupt):
        writer.publish(record(2))
    monkeypatch.setattr(areas, "write", write)
    assert busy.position == at(1)
    host.path.unlink()
    assert host.publish(record(3))
    assert busy.position == at(3)


def test_a_new_file_never_repeats_a_number_of_the_old_one(host: HostSnapshot) -> None:
    """A process that compares numbers must see that something has changed."""
    seen = {host.sequence}
    for revision in range(2, 6):
        host.path.unlink()
        assert host.verify()
        assert host.sequence == 0
        host.publish(record(revision))
        seen.add(host.sequence)
    assert len(seen) == 5


def test_what_a_process_recorded_moves_with_it_to_a_new_file(host: HostSnapshot) -> None:
    """Else it would count as missing for ever, or as one that refuses nothing."""
    refusal = RefusedValue("A", "default", "too large")
    host.register("worker", 3, 77, follows=True)
    host.slots.record(at(5), (refusal,))
    host.slots.record_expected_workers(4)
    host_id = host.host_id
    (before,) = host.slots.living()
    host.path.unlink()
    assert host.verify()
    (found,) = host.slots.living()
    assert replace(found, since=before.since) == before
    assert (found.position, found.refused, found.expected_workers) == (at(5), refusal, 4)
    assert host.host_id == host_id, "it is the same host"


def test_a_host_stays_the_same_where_a_process_that_starts_makes_the_new_file(
    host: HostSnapshot,
) -> None:
    """Such as a command. As another host, the one before would count as silent for minutes."""
    host_id = host.host_id
    host.path.unlink()
    assert HostSnapshot(host.path).host_id == host_id
    assert host.verify()
    assert host.host_id == host_id
    for path in (host.path, host.path.with_name("snapshot.lock")):
        path.unlink()
    assert HostSnapshot(host.path).host_id != host_id, "of a directory that was emptied"


def test_a_file_that_cannot_be_replaced_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A listener looks four times a second."""
    path = tmp_path / "snapshot"
    path.mkdir()
    host = HostSnapshot(path)
    for _ in range(5):
        assert not host.verify()
    assert len(caplog.records) == 1
    assert host.publish(record(1))
    path.rmdir()
    assert host.verify(), "it is used as soon as it can be"
    assert host.is_shared


def test_leftovers_of_a_process_that_was_killed_while_it_made_the_file_are_removed(
    tmp_path: Path,
) -> None:
    leftover, of_another = tmp_path / ".snapshot.abcd1234", tmp_path / ".snapshot2.abcd1234"
    for path in (leftover, of_another):
        path.touch()
    assert HostSnapshot(tmp_path / "snapshot").is_shared
    assert not leftover.exists()
    assert of_another.exists()


@pytest.mark.parametrize("number", [1, 2**63, layout.WORD_MAX - 1, layout.WORD_MAX])
def test_garbage_in_the_number_of_the_record_does_no_harm(number: int, host: HostSnapshot) -> None:
    host.words[layout.SEQUENCE_WORD] = number
    assert host.read() is None
    for revision in (1, 2):
        assert host.publish(record(revision), since=host.sequence)
        found = host.read()
        assert found is not None
        assert found[1] == record(revision)


# -- a file system that refuses --------------------------------------------------------------------

#: Becomes an ordinary user, once everything is imported.
UNPRIVILEGED = "import os\nos.setgroups([])\nos.setgid(65534)\nos.setuid(65534)\n"

#: Writes no large file, as where a file system is full.
LIMITED = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
"""

IMPORTS = """
import sys, pathlib
from tests.host.states import record
from uwsgi_waffle.host.records import HostSnapshot
"""

PUBLISH = """
host = HostSnapshot(pathlib.Path(sys.argv[1]))
print(host.is_shared, bool(host.publish(record(1))), host.position.revision)
"""


@pytest.fixture
def unprivileged_directory() -> Iterator[Path]:
    """Give a directory that an ordinary user owns and reaches, unlike pytest's."""
    require(os.geteuid() == 0, "the right to give a directory away (root)")
    with tempfile.TemporaryDirectory() as name:
        os.chown(name, 65534, 65534)
        yield Path(name)


def test_a_directory_that_cannot_be_written_is_bypassed(unprivileged_directory: Path) -> None:
    program, path = IMPORTS + UNPRIVILEGED + PUBLISH, unprivileged_directory / "snapshot"
    unprivileged_directory.chmod(0o500)
    assert output_of(program, path) == "False True 1"
    unprivileged_directory.chmod(0o700)
    assert output_of(program, path) == "True True 1"
    unprivileged_directory.chmod(0o500)
    assert output_of(program, path) == "True False 1", "an existing file can be used"


def test_a_limit_on_the_size_of_files_is_bypassed(tmp_path: Path) -> None:
    log = "import logging\nlogging.basicConfig(stream=sys.stdout)\n"
    printed = output_of(IMPORTS + log + LIMITED + PUBLISH, tmp_path / "snapshot")
    assert printed.endswith("\nFalse True 1")
    assert "cannot be used" in printed
    assert {path.name for path in tmp_path.iterdir()} == {"snapshot.lock", "snapshot.processes"}
