"""`history --follow`: each change as it comes, once, whatever happens to SQL meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Site
from tests.conftest import Apps, execute, state_of
from tests.support.command_line import flask_command, flask_environment
from tests.support.command_line import run_in_process as run
from tests.support.waiting import NEVER_SECONDS, SOON_SECONDS, wait_until
from uwsgi_waffle import UnknownSetting, WaffleConf
from uwsgi_waffle.cli._follow import Tail
from uwsgi_waffle.values.position import Position

NAMES = ("S000", "S001", "S002")
CONFS = {name: {"default": 0} for name in NAMES}
WRITERS = 3
ROUNDS = 20


class Following:
    """`flask waffle history --follow` as an operator runs it."""

    def __init__(self, directory: Path, apps: Apps, *arguments: str, poll_seconds: float) -> None:
        """Start it on the host of the applications named "here"."""
        self._output, self._errors = directory / "output", directory / "errors"
        environment = {
            "WAFFLE_DATABASE_URI": apps.database_uri,
            "WAFFLE_SNAPSHOT_PATH": str(directory / "here" / "snapshot"),
            "WAFFLE_POLL_SECONDS": str(poll_seconds),
        }
        with self._output.open("wb") as output, self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                flask_command("tests.apps.whole_numbers:app", "history", "--follow", *arguments),
                env=flask_environment(environment),
                stdout=output,
                stderr=errors,
            )

    @property
    def output(self) -> str:
        return self._output.read_text()

    @property
    def errors(self) -> str:
        return self._errors.read_text()

    @property
    def changes(self) -> list[tuple[int, str, object]]:
        """What it has printed as JSON."""
        found = map(json.loads, self.output.splitlines())
        return [(one["revision"], one["name"], one["new"]) for one in found]

    def wait_for(self, text: str) -> None:
        wait_until(lambda: text in self.output, SOON_SECONDS, f"it prints {text!r}")

    def end(self) -> int:
        """Press Ctrl-C, and return the exit status."""
        self._process.send_signal(signal.SIGINT)
        return self._process.wait(SOON_SECONDS)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(SOON_SECONDS)


@contextlib.contextmanager
def following(
    apps: Apps, *arguments: str, poll_seconds: float = NEVER_SECONDS
) -> Iterator[Following]:
    """Run the command, and return when it has printed a change that was made before."""
    _, writer = apps(WAFFLE_CONFS=CONFS)
    writer.update({"S002": 7}, comment="before")
    found = Following(apps.directory, apps, *arguments, poll_seconds=poll_seconds)
    try:
        found.wait_for("before")
        yield found
    finally:
        found.kill()


def test_each_change_is_printed_as_it_comes(apps: Apps) -> None:
    """The processes of a host share what it knows, so it comes at once; oldest first."""
    _, writer = apps(WAFFLE_CONFS=CONFS)
    with following(apps) as found:
        writer.update({"S000": 1, "S001": 2}, actor="alice", comment="launch")
        found.wait_for("launch")
        writer.update({"S000": 3}, actor="bob")
        found.wait_for("S000: 1 -> 3")
        assert found.end() == 0
        assert found.errors == ""
        blocks = found.output.split("\n\n")
        heads = [block.split("  ")[0] for block in blocks]
        assert heads == ["revision 1", "revision 2", "revision 3"]
        assert blocks[1].splitlines()[1:] == ["    launch", "  S000: 0 -> 1", "  S001: 0 -> 2"]


def test_no_change_is_missed_or_printed_twice(apps: Apps) -> None:
    """However many writers there are, on this host and on others."""
    writers = [apps(WAFFLE_CONFS=CONFS, host=f"{n}" if n else "here")[1] for n in range(WRITERS)]

    def write(number: int) -> None:
        for value in range(1, ROUNDS + 1):
            writers[number].update({NAMES[number]: value * 10, NAMES[number - 1]: -value})

    with following(apps, "--json", poll_seconds=0.1) as found, ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(write, range(WRITERS)))
        made = writers[0].history(limit=None)
        wanted = sorted((one.revision, one.name, one.new) for one in made)
        wait_until(lambda: len(found.changes) >= len(wanted), SOON_SECONDS, "all are printed")
        assert found.end() == 0
        assert found.changes == wanted


def test_of_one_setting_and_new_changes_only(apps: Apps) -> None:
    _, writer = apps(WAFFLE_CONFS=CONFS)
    app, _ = apps(WAFFLE_CONFS=CONFS)
    for value in range(1, 16):
        writer.update({"S000": value, "S001": value})
    tail = Tail(state_of(app), "S001", reveal=False)
    assert [one.revision for one in tail.start(3)] == [13, 14, 15]
    writer.update({"S000": 20})
    assert tail.new() == []
    writer.update({"S001": 21})
    assert [(one.revision, one.name) for one in tail.new()] == [(17, "S001")]
    assert tail.new() == []
    assert Tail(state_of(app), None, reveal=False).start(0) == []
    assert len(Tail(state_of(app), None, reveal=False).start(None)) == 32


def test_what_comes_while_it_looks_is_given_once(
    apps: Apps, monkeypatch: pytest.MonkeyPatch
) -> None:
    (app, _), (_, writer) = apps(WAFFLE_CONFS=CONFS), apps(WAFFLE_CONFS=CONFS)
    writer.update({"S000": 1})
    tail, store = Tail(state_of(app), None, reveal=False), state_of(app).store
    peek, values = store.peek, iter(range(2, 100))

    def overtaken() -> Position:
        found = peek()
        writer.update({"S000": next(values)})
        return found

    with monkeypatch.context() as busy:
        busy.setattr(store, "peek", overtaken)
        given = [one.new for changes in (tail.start(10), tail.new(), tail.new()) for one in changes]
    given += [one.new for one in tail.new()]
    assert given == [1, 2, 3, 4]


def test_an_outage_of_sql_is_said_once(apps: Apps) -> None:
    _, writer = apps(WAFFLE_CONFS=CONFS)
    with following(apps, "--json", poll_seconds=0.1) as found:
        path = apps.directory / "waffle.db"
        for number in (1, 2):
            kept = path.rename(apps.directory / "kept.db")
            path.mkdir()
            wait_until(lambda: found.errors.count("\n") == number, SOON_SECONDS, "it is said")  # noqa: B023
            lines = wait_until(lambda: len(found.errors), SOON_SECONDS, "it is said")
            path.rmdir()
            kept.rename(path)
            writer.update({"S000": number})
            wait_until(lambda: len(found.changes) == 1 + number, SOON_SECONDS, "it is printed")  # noqa: B023
            assert len(found.errors) == lines
        assert found.end() == 0
        assert found.errors.count("cannot be used: unable to open database file") == 2
        assert "Traceback" not in found.errors


def test_a_database_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    apps = Apps(tmp_path, f"sqlite:///{tmp_path}/later/waffle.db")
    found = Following(tmp_path, apps, "--json", poll_seconds=0.1)
    try:
        wait_until(lambda: found.errors, SOON_SECONDS, "it is said")
        (tmp_path / "later").mkdir()
        _, writer = apps(WAFFLE_CONFS=CONFS, host="there")
        writer.update({"S000": 1})
        wait_until(lambda: found.output, SOON_SECONDS, "it is printed")
        assert found.end() == 0
        assert (len(found.changes), found.errors.count("\n")) == (1, 1)
    finally:
        found.kill()
        apps.close()


@pytest.mark.parametrize("is_read", [True, False], ids=["idle", "printing"])
@pytest.mark.parametrize("form", [(), ("--json",)], ids=["lines", "json"])
def test_it_ends_when_its_reader_is_gone(apps: Apps, form: Sequence[str], *, is_read: bool) -> None:
    """As in `... --follow | head -1`: at once, though nothing is printed, and without a word."""
    _, writer = apps(WAFFLE_CONFS=CONFS)
    writer.update({"S000": 1})
    reading, writing = os.pipe()
    with open(reading, "rb") as output, open(apps.directory / "errors", "w+b") as errors:  # noqa: PTH123
        process = subprocess.Popen(
            flask_command("tests.apps.whole_numbers:app", "history", "--follow", *form),
            env=flask_environment(
                {
                    "WAFFLE_DATABASE_URI": apps.database_uri,
                    "WAFFLE_SNAPSHOT_PATH": str(apps.directory / "here" / "snapshot"),
                }
            ),
            stdout=writing,
            stderr=errors,
        )
        try:
            os.close(writing)
            if is_read:
                assert output.readline()
            output.close()
            assert process.wait(SOON_SECONDS) == 0
        finally:
            process.kill()
            process.wait(SOON_SECONDS)
        errors.seek(0)
        assert errors.read() == b""


# -- SQL holds another state than before -----------------------------------------------------------


def _restore(apps: Apps, revision: int, stamp: str) -> None:
    execute(
        apps.database_uri,
        f"DELETE FROM waffle_change WHERE revision > {revision}",  # noqa: S608  # our own numbers
        f"UPDATE waffle_namespace SET revision = {revision}, stamp = '{stamp}'",  # noqa: S608
    )


def _made_on(apps: Apps, *values: int, host: str) -> WaffleConf[Any]:
    """Change a setting on a host that knows of no other state than SQL's."""
    _, writer = apps(WAFFLE_CONFS=CONFS, host=host)
    for value in values:
        writer.update({"S000": value})
    return writer


@pytest.mark.parametrize("later", [1, 2, 5], ids=["earlier", "same", "later"])
def test_changes_after_a_restored_backup_are_printed(apps: Apps, later: int) -> None:
    """Also those whose revisions it has printed before, with other changes."""
    app, _ = apps(WAFFLE_CONFS=CONFS)
    _made_on(apps, 1, 2, 3, host="there")
    ((revision, stamp),) = execute(
        apps.database_uri, "SELECT revision, stamp FROM waffle_namespace"
    )
    tail = Tail(state_of(app), None, reveal=False)
    assert [one.new for one in tail.start(10)] == [1, 2, 3]
    _made_on(apps, 4, 5, host="there")
    assert [one.new for one in tail.new()] == [4, 5]
    _restore(apps, revision, stamp)
    values = [100 + number for number in range(later)]
    _made_on(apps, *values, host="restored")
    assert [one.new for one in tail.new()] == values
    _made_on(apps, 1000, host="restored")
    assert [one.new for one in tail.new()] == [1000]


def test_changes_of_another_database_are_printed(apps: Apps) -> None:
    app, _ = apps(WAFFLE_CONFS=CONFS)
    _made_on(apps, 1, 2, host="there")
    tail = Tail(state_of(app), None, reveal=False)
    assert len(tail.start(10)) == 2
    for table in ("waffle_change", "waffle_setting", "waffle_namespace"):
        execute(apps.database_uri, f"DELETE FROM {table}")  # noqa: S608  # our own tables
    assert tail.new() == []
    _made_on(apps, 5, host="new")
    assert [(one.revision, one.new) for one in tail.new()] == [(1, 5)]


# -- how it is asked -------------------------------------------------------------------------------


def test_an_unknown_name_is_refused(site: Site) -> None:
    done = run(site[0], "history", "SITENAM", "--follow")
    assert done.status == 1
    assert done.errors == "Error: Unknown setting SITENAM. Did you mean SITENAME?\n"
    with pytest.raises(UnknownSetting):
        Tail(state_of(site[0]), "SITENAM", reveal=False).start(1)


def test_no_change_at_all_can_only_be_followed(site: Site) -> None:
    done = run(site[0], "history", "--limit", "0")
    assert done.status == 2
    assert "--follow" in done.errors


@pytest.mark.parametrize("option", [(), ("--reveal",)], ids=["masked", "revealed"])
def test_secrets_are_masked_unless_revealed(
    site: Site, option: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    app, waffle = site
    waffle.update({"API_KEY": "s3cret"})
    monkeypatch.setattr("uwsgi_waffle.cli._follow.LOOK_SECONDS", 0.01)

    def interrupt(_self: object, _seconds: float) -> bool:
        os.kill(os.getpid(), signal.SIGINT)
        return False

    monkeypatch.setattr("uwsgi_waffle.cli._follow.Reader.is_gone", interrupt)
    for form in ([], ["--json"]):
        done = run(app, "history", "--follow", *option, *form)
        assert done.status == 0
        assert ("s3cret" in done.output) is bool(option)
