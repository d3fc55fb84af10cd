"""Shared memory is given back: a host snapshot goes with its SQLite file and its last process."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.host.others import give_to_another_user, write_word
from tests.host.states import record
from tests.support import require, wait_until
from tests.support.programs import Program, output_of
from tests.support.soak import times
from tests.support.waiting import SOON_SECONDS
from uwsgi_waffle.config import Config
from uwsgi_waffle.host import layout
from uwsgi_waffle.host.leftovers import sweep
from uwsgi_waffle.host.records import HostSnapshot
from uwsgi_waffle.sql.engine import sqlite_path

#: Uses a host snapshot, unlisted, until its input ends.
USER = """
import pathlib, sys
from uwsgi_waffle.host.records import HostSnapshot
path, database = map(pathlib.Path, sys.argv[1:])
host = HostSnapshot(path, database=database)
print(host.is_shared, flush=True)
sys.stdin.read()
"""


def path_of(directory: Path, name: object) -> Path:
    return directory / "shared" / f"{name}.{layout.VERSION}.snapshot"


def made(directory: Path, name: object) -> HostSnapshot:
    """Return a host snapshot with a database, as the default path gives it."""
    database = database_of(directory, name)
    database.parent.mkdir(exist_ok=True, parents=True)
    database.touch()
    host = HostSnapshot(path_of(directory, name), database=database)
    assert host.publish(record(7))
    return host


def database_of(directory: Path, name: object) -> Path:
    return directory / "databases" / str(name) / "waffle.db"


def lose_database(directory: Path, name: object) -> None:
    database_of(directory, name).unlink()
    database_of(directory, name).parent.rmdir()


def left(directory: Path) -> list[str]:
    """Return the names of the host snapshots and of all files beside them."""
    return sorted({file.name.split(".")[0] for file in (directory / "shared").iterdir()})


#: Makes applications one after another, each with a database that goes with it.
APPLICATIONS = """
import gc, sys, tempfile
from flask import Flask
from uwsgi_waffle import WaffleConf
for number in range(int(sys.argv[1])):
    with tempfile.TemporaryDirectory() as directory:
        app = Flask("tests")
        app.config["WAFFLE_DATABASE_URI"] = f"sqlite:///{directory}/waffle.db"
        app.config["WAFFLE_CONFS"] = {"FIRST": {"default": 0}}
        waffle = WaffleConf(app)
        waffle.update({"FIRST": number + 1})
        print(app.extensions["waffleconf"].host.path)
        app.extensions["waffleconf"].store.database.close()
    del app, waffle
    gc.collect()
"""


def test_applications_with_databases_that_go_leave_one_host_snapshot() -> None:
    """The default path is in shared memory, of which a container has 64 MiB."""
    count = times(5, 100)
    paths = {Path(line) for line in output_of(APPLICATIONS, count).splitlines()}
    beside = [file for path in paths for file in path.parent.glob(f"{path.name}*")]
    try:
        assert len(paths) == count
        # The last one, too, is gone where another program of this user has swept meanwhile.
        assert sum(path.exists() for path in paths) <= 1
        assert len(beside) <= 4
    finally:
        for file in beside:
            file.unlink()


def test_a_hundred_databases_leave_one_host_snapshot(tmp_path: Path) -> None:
    for number in range(100):
        made(tmp_path, number)
        lose_database(tmp_path, number)
    assert left(tmp_path) == ["99"]


def test_a_host_snapshot_is_kept_while_a_process_uses_it(tmp_path: Path) -> None:
    """Listed or not, in this process or another, and until the last one is killed."""
    mine = made(tmp_path, "mine")
    arguments = path_of(tmp_path, "theirs"), database_of(tmp_path, "theirs")
    made(tmp_path, "theirs")
    with Program(USER, *arguments) as first, Program(USER, *arguments) as second:
        assert first.read() == second.read() == "True"
        lose_database(tmp_path, "mine")
        lose_database(tmp_path, "theirs")
        first.kill()
        made(tmp_path, "new")
        assert left(tmp_path) == ["mine", "new", "theirs"]
        assert not mine.verify(), "it is still in place"
        second.kill()
    sweep(tmp_path / "shared")
    assert left(tmp_path) == ["mine", "new"]
    del mine
    sweep(tmp_path / "shared")
    assert left(tmp_path) == ["new"]


def test_a_forked_child_keeps_it_when_its_parent_has_ended(tmp_path: Path) -> None:
    """The locks of the parent are not those of its child, which is listed at its first request."""
    reading, writing = os.pipe()
    said, saying = os.pipe()
    parent = os.fork()
    if not parent:
        host = made(tmp_path, "forked")
        if not os.fork():
            host.register("process")
            os.write(saying, b"x")
            os.read(reading, 1)
        os._exit(0)
    os.waitpid(parent, 0)
    os.read(said, 1)
    lose_database(tmp_path, "forked")
    sweep(tmp_path / "shared")
    assert left(tmp_path) == ["forked"]
    os.write(writing, b"x")

    def is_swept() -> bool:
        sweep(tmp_path / "shared")
        return not left(tmp_path)

    wait_until(is_swept, SOON_SECONDS, "the child has ended, and its host snapshot is gone")
    for descriptor in (reading, writing, said, saying):
        os.close(descriptor)


def keep_database(directory: Path) -> None:
    database_of(directory, "one").parent.mkdir(parents=True)
    database_of(directory, "one").symlink_to("missing")


def rename(directory: Path) -> None:
    path_of(directory, "one").rename(directory / "shared" / "one")


def to_file(act: Callable[..., None], *arguments: int) -> Callable[[Path], None]:
    """Return a function that does something to the host snapshot."""
    return lambda directory: act(path_of(directory, "one"), *arguments)


KEPT: dict[str, Callable[[Path], None]] = {
    "a link, to a database that is elsewhere": keep_database,
    "another user's": to_file(give_to_another_user),
    # Where this process does not see the path, or not what was mounted there.
    "made in another container": to_file(write_word, layout.PLACE_WORD, 1),
    "made at a path that was chosen": to_file(write_word, layout.DATABASE_LENGTH_WORD, 0),
    "of another layout": to_file(write_word, layout.VERSION_WORD, layout.VERSION + 1),
    "no snapshot": to_file(write_word, layout.MAGIC_WORD, 0),
    "damaged": to_file(write_word, layout.DATABASE_LENGTH_WORD, layout.DATABASE_BYTES + 1),
    "named otherwise": rename,
}


@pytest.mark.parametrize("what", KEPT)
def test_what_may_be_of_use_is_kept(what: str, tmp_path: Path) -> None:
    made(tmp_path, "one")
    lose_database(tmp_path, "one")
    KEPT[what](tmp_path)
    sweep(tmp_path / "shared")
    assert left(tmp_path) == ["one"]


def test_a_file_system_that_is_not_mounted_now_is_waited_for(tmp_path: Path) -> None:
    """A database on it is not gone."""
    require(os.geteuid() == 0, "the right to mount a file system (root)")
    place = tmp_path / "databases"
    place.mkdir()
    mount = ["/bin/mount", "-t", "tmpfs", "tmpfs", str(place)]
    require(subprocess.run(mount, check=False).returncode == 0, "a tmpfs to mount")
    made(tmp_path, "one")
    subprocess.run(["/bin/umount", "--lazy", str(place)], check=True)
    sweep(tmp_path / "shared")
    assert left(tmp_path) == ["one"]


def test_a_path_that_was_chosen_says_nothing_of_its_database(tmp_path: Path) -> None:
    HostSnapshot(path_of(tmp_path, "one"))
    sweep(tmp_path / "shared")
    assert left(tmp_path) == ["one"]


#: Begins and ends to use host snapshots without databases, and sweeps meanwhile.
RACER = """
import pathlib, random, sys
from uwsgi_waffle.host import lives
from uwsgi_waffle.host.leftovers import sweep
from uwsgi_waffle.host.records import HostSnapshot
lives._SWEEP_SECONDS = 60.0  # a sweep that takes longer counts as stopped; a disk may be busy
directory, rounds = pathlib.Path(sys.argv[1]), int(sys.argv[2])
for turn in range(rounds):
    name = f"{random.randrange(2)}.{sys.argv[3]}.snapshot"
    host = HostSnapshot(directory / name, database=directory.parent / "missing")
    file = host._file
    assert host.is_shared and file.is_in_place(), (turn, "opened, and removed by a sweep")
    host.register("process")
    sweep(directory)
    assert file is host._file and file.is_in_place(), (turn, "removed while it is used")
    assert host.slots.is_listed()
    del host, file
print("right")
"""


def test_of_sweeps_and_starts_at_the_same_time_none_loses_a_file(tmp_path: Path) -> None:
    arguments = tmp_path / "shared", times(150, 5000), layout.VERSION
    with Program(RACER, *arguments) as one, Program(RACER, *arguments) as another:
        assert [one.read(), another.read()] == ["right", "right"]
    sweep(tmp_path / "shared")
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("sqlite:////var/lib/app/waffle.db", "/var/lib/app/waffle.db"),
        ("sqlite+pysqlite:////var/lib/a b.db?timeout=5", "/var/lib/a b.db"),
        ("sqlite:////var/lib/a%20b.db", None),
        ("sqlite:///relative.db", None),
        ("sqlite:///file:/var/lib/a%20b.db?uri=true", None),
        ("sqlite://", None),
        ("sqlite:///:memory:", None),
        ("sqlite+pysqlcipher://:secret@//var/lib/waffle.db", None),
        ("postgresql://localhost/var/lib/waffle.db", None),
    ],
)
def test_only_the_surely_known_path_of_a_sqlite_file_counts(uri: str, path: str | None) -> None:
    """SQLAlchemy means the same file, where it is one."""
    found = Config.model_validate({"database_uri": uri}).database_file
    assert found == (None if path is None else Path(path))
    if found is not None:
        assert sqlite_path(sa.make_url(uri)) == found
