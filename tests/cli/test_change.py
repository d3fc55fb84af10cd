"""`set`, `reset` and what all changes share: what is accepted, refused and printed."""

from __future__ import annotations

import getpass
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.cli.conftest import Settings, Site
from tests.conftest import Apps, state_of
from tests.support.command_line import flask_command, flask_environment
from tests.support.command_line import run_in_process as run
from uwsgi_waffle.sql.store import Signature

EACH_CHANGE = pytest.mark.parametrize(
    "command", [["set", "MAX=5"], ["reset", "MAX"], ["rollback", "1", "--yes"]], ids=str
)


class TestTypedValues:
    """`set` accepts JSON, or else a text, and the setting's type decides."""

    @pytest.mark.parametrize(
        ("assignment", "value"),
        [
            ("MAX=5", 5),
            ("RATIO=1", 1.0),
            ("CLOSED=true", True),
            ("CLOSED=yes", True),
            ('TAGS=["a", "b"]', ["a", "b"]),
            ('COLOURS=["b", "a"]', frozenset({"a", "b"})),
            ('LIMITS={"a": 1}', {"a": 1}),
            ("SITENAME=New name", "New name"),
            ('SITENAME="quoted"', "quoted"),
            ("SITENAME=5", "5"),
            ("SITENAME=true", "true"),
            ("SITENAME=[1]", "[1]"),
            ("SITENAME=NaN", "NaN"),
            ("SITENAME=", ""),
            ("SITENAME=a=b", "a=b"),
            ("NOTE=null", None),
            ("NOTE=none", "none"),
        ],
    )
    def test_is_accepted(self, site: Site, assignment: str, value: object) -> None:
        app, waffle = site
        waffle.update({"NOTE": "before"})
        done = run(app, "set", assignment)
        assert done.status == 0, done.errors
        assert getattr(waffle.settings, assignment.partition("=")[0]) == value

    def test_several_are_one_revision(self, site: Site) -> None:
        app, waffle = site
        assert run(app, "set", "MAX=5", "MIN=5", "SITENAME=x").status == 0
        assert waffle.revision == 1
        assert (waffle.settings.MIN, waffle.settings.MAX) == (5, 5)

    @pytest.mark.parametrize("typed", ["s3cret", '"quoted"', "12345", "null", "two\nlines"])
    def test_a_secret_comes_from_standard_input_as_it_is(self, site: Site, typed: str) -> None:
        app, waffle = site
        done = run(app, "set", "--from-stdin", "API_KEY", "MAX=5", typed=f"{typed}\n")
        assert done.status == 0
        assert waffle.settings.API_KEY.get_secret_value() == typed
        assert waffle.settings.MAX == 5
        assert done.output.startswith("MAX: 1000 -> 5\nAPI_KEY: ******** -> ********\n")

    def test_other_types_come_from_standard_input_too(self, site: Site) -> None:
        assert run(site[0], "set", "--from-stdin", "TAGS", typed='["a"]').status == 0
        assert site[1].settings.TAGS == ["a"]


class TestRefusals:
    """A wrong value is refused in one line on stderr with status 1, and nothing changes."""

    @pytest.mark.parametrize(
        ("assignments", "reason"),
        [
            (["MAX=x"], "MAX: Input should be a valid integer"),
            (["MAX=0"], "MAX: Input should be greater than or equal to 1"),
            (["MAX=5", "MIN=6"], "MIN must not be greater than MAX"),
            (["MAX=5", "MAXX=6"], "Unknown setting MAXX. Did you mean MAX?"),
            (["TAGS=a"], "TAGS: Input should be a valid"),
            (["RATIO=NaN"], "RATIO: "),
            ([f"SITENAME={'x' * 41}"], "SITENAME: String should have at most 40 characters"),
            (["MAX=5", "--actor", "x" * 201], "actor: it has 201 characters"),
            (["SITENAME=\udcff"], "SITENAME: "),  # as an argument has it that is not UTF-8
        ],
    )
    def test_one_line_and_nothing_changed(
        self, site: Site, assignments: list[str], reason: str
    ) -> None:
        done = run(site[0], "set", *assignments)
        assert done.status == 1
        assert done.output == ""
        assert done.errors.count("\n") == 1
        assert done.errors.startswith("Error: ")
        assert reason in done.errors
        assert site[1].revision == 0

    def test_a_refused_secret_is_not_repeated(self, site: Site) -> None:
        done = run(site[0], "set", "API_KEY=[1]", "MAX=s3cret-1")
        assert done.status == 1
        assert "s3cret" not in done.errors

    @pytest.mark.parametrize(
        "arguments",
        [
            ["set"],
            ["set", "MAX"],
            ["set", "=5"],
            ["set", "MAX=1", "MAX=2"],
            ["set", "MAX=1", "--from-stdin", "MAX"],
            ["set", "MAX=1", "--expect", "x"],
            ["set", "MAX=1", "--unknown"],
            ["reset"],
            ["rollback"],
            ["rollback", "-1"],
            ["nothing"],
        ],
    )
    def test_a_wrong_command_ends_with_status_2(self, site: Site, arguments: list[str]) -> None:
        assert run(site[0], *arguments).status == 2
        assert site[1].revision == 0


class TestHistoryOfAChange:
    """Each change is kept with who made it, why, and that it came from the command line."""

    def test_actor_and_comment_are_kept(self, site: Site) -> None:
        run(site[0], "set", "MAX=5", "--actor", "alice", "--comment", "launch")
        change = site[1].history()[0]
        assert (change.actor, change.comment, change.source) == ("alice", "launch", "cli")

    @EACH_CHANGE
    def test_the_login_name_is_the_default(
        self, site: Site, command: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("SUDO_USER", raising=False)
        site[1].update({"MAX": 6})
        site[1].update({"MAX": 7})
        run(site[0], *command)
        change = site[1].history()[0]
        assert (change.actor, change.source) == (getpass.getuser(), "cli")

    def test_under_sudo_it_is_the_caller(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SUDO_USER", "carol")
        run(site[0], "set", "MAX=5")
        assert site[1].history()[0].actor == "carol"


class TestExpect:
    """`--expect` refuses where another change came first, and names who made which."""

    def test_names_the_change_that_came_first(self, site: Site) -> None:
        app, waffle = site
        waffle.update({"MAX": 5})
        state_of(app).writer.update({"MAX": 6}, Signature("alice", "too small", "page"))
        done = run(app, "set", "MAX=7", "--expect", "1")
        assert done.status == 1
        assert done.errors == (
            "Error: The settings are at revision 2, not 1: alice (page) changed MAX from 5 to 6 "
            "in revision 2 (too small). If that is as it should be, try again with --expect 2.\n"
        )
        assert waffle.settings.MAX == 6
        assert run(app, "set", "MAX=7", "--expect", "2").status == 0

    @EACH_CHANGE
    def test_holds_for_every_change(self, site: Site, command: list[str]) -> None:
        site[1].update({"MAX": 5})
        site[1].update({"MAX": 6})
        assert run(site[0], *command, "--expect", "1").status == 1
        assert run(site[0], *command, "--expect", "2").status == 0

    def test_of_two_operators_at_once_one_wins(self, tmp_path: Path) -> None:
        """Two real commands start from one revision: one changes it, the other names who did."""
        environment = {
            "WAFFLE_DATABASE_URI": f"sqlite:///{tmp_path}/waffle.db",
            "WAFFLE_SNAPSHOT_PATH": str(tmp_path / "host" / "snapshot"),
        }

        def start(actor: str, value: int) -> subprocess.Popen[str]:
            return subprocess.Popen(
                flask_command(
                    "tests.apps.whole_numbers:app",
                    *("set", f"S000={value}", "--expect", "0", "--actor", actor),
                ),
                env=flask_environment(environment),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )

        operators = {"alice": start("alice", 1), "bob": start("bob", 2)}
        errors = {name: one.communicate(timeout=60)[1] for name, one in operators.items()}
        (winner,) = (name for name, one in operators.items() if one.returncode == 0)
        loser, value = ("bob", 1) if winner == "alice" else ("alice", 2)
        assert operators[loser].returncode == 1
        assert f"{winner} (cli) changed S000 from 0 to {value} in revision 1" in errors[loser]


class TestReset:
    """`reset` goes back to the default."""

    def test_is_one_revision(self, site: Site) -> None:
        site[1].update({"MAX": 5, "TAGS": ["a"]})
        done = run(site[0], "reset", "MAX", "TAGS")
        assert "MAX: 5 -> 1000" in done.output
        assert site[1].settings == Settings.model_validate({})
        assert site[1].revision == 2

    def test_of_an_unknown_name_is_refused(self, site: Site) -> None:
        assert run(site[0], "reset", "MAXX").status == 1


class TestEnd:
    """A change ends with what has happened to the fleet."""

    @EACH_CHANGE
    def test_prints_the_fleet_without_no_wait(self, site: Site, command: list[str]) -> None:
        site[1].update({"MAX": 6})
        site[1].update({"MAX": 7})
        assert "revision 3: " in run(site[0], *command).output.splitlines()[-1]
        site[1].update({"MAX": 8})
        assert "revision 5: " not in run(site[0], *command, "--no-wait").output

    def test_json_holds_changes_and_fleet(self, site: Site) -> None:
        found = run(site[0], "set", "MAX=5", "--json").json
        assert found["revision"] == 1
        assert found["changes"] == {"MAX": {"old": 1000, "new": 5}}
        assert found["fleet"]["revision"] == 1
        assert found["fleet"]["missing"] == []
        assert run(site[0], "set", "MAX=6", "--json", "--no-wait").json["fleet"] is None

    @pytest.mark.parametrize("form", [(), ("--json",)], ids=["lines", "json"])
    def test_without_redis_other_hosts_are_not_known(self, apps: Apps, form: Sequence[str]) -> None:
        app, waffle = apps(Settings, WAFFLE_MULTIPROC=True, WAFFLE_REDIS_URL="redis://127.0.0.1:1")
        done = run(app, "set", "MAX=5", "--timeout", "0", *form)
        assert done.status == 1
        assert done.errors.count("\n") == 1
        assert "Redis at redis://127.0.0.1:1 does not answer" in done.errors
        if form:
            (missing,) = done.json["fleet"]["missing"]
            assert missing["host"] == "(any other)"
        assert waffle.settings.MAX == 5
