"""`list`, `get` and `history`: what is shown, and what never is."""

from __future__ import annotations

import re
from typing import Any, ClassVar

import pytest
from pydantic import Field, SecretStr

from tests.cli.conftest import Site
from tests.conftest import Apps, execute, state_of
from tests.support.command_line import run_in_process as run
from uwsgi_waffle import WaffleSettings
from uwsgi_waffle.sql.store import Signature

MASK = "********"


class Settings(WaffleSettings):
    """Settings of several types, a secret among them."""

    SITENAME: str = Field("Waffle", description="Name shown in the header")
    MAX_FILESIZE: int = Field(1000, ge=1, description="Max upload size (bytes)")
    TAGS: list[str] = Field([])
    API_KEY: SecretStr = Field(SecretStr("k3y-of-old"), description="Key of the mail service")


@pytest.fixture
def site(apps: Apps) -> Site:
    """Give an application with two revisions."""
    app, waffle = apps(Settings)
    waffle.update({"SITENAME": "New", "TAGS": ["a"]}, actor="alice", comment="launch day")
    values = {"API_KEY": "s3cret-value", "MAX_FILESIZE": 5}
    state_of(app).writer.update(values, Signature("bob", None, "page"))
    return app, waffle


class TestList:
    """`flask waffle list`."""

    def test_shows_each_setting_aligned_and_what_differs(self, site: Site) -> None:
        lines = run(site[0], "list").output.splitlines()
        assert lines[0] == "   NAME          VALUE     DESCRIPTION"
        assert lines[1] == '*  SITENAME      "New"     Name shown in the header'
        assert lines[2] == "*  MAX_FILESIZE  5         Max upload size (bytes)"
        assert lines[-1] == "Revision 2. * differs from the default."

    def test_json_holds_every_detail(self, site: Site) -> None:
        found = run(site[0], "list", "--json").json
        assert found["revision"] == 2
        assert len(found["lineage"]) == 16
        assert found["settings"][1] == {
            "name": "MAX_FILESIZE",
            "value": 5,
            "default": 1000,
            "is_default": False,
            "is_secret": False,
            "description": "Max upload size (bytes)",
        }

    def test_fits_80_columns_whatever_the_values(self, apps: Apps) -> None:
        app, waffle = apps(Settings)
        waffle.update({"SITENAME": "x" * 500, "TAGS": ["y\n" * 90]})
        assert max(map(len, run(app, "list").output.splitlines())) <= 80

    def test_names_a_stored_value_that_cannot_be_used(self, site: Site, apps: Apps) -> None:
        execute(apps.database_uri, "UPDATE waffle_setting SET value='0' WHERE name='MAX_FILESIZE'")
        execute(apps.database_uri, "UPDATE waffle_namespace SET revision = 3")
        done = run(site[0], "list")
        assert done.status == 0
        assert "MAX_FILESIZE cannot be used" in done.errors


class TestGet:
    """`flask waffle get`."""

    @pytest.mark.parametrize(
        ("name", "printed"), [("SITENAME", "New"), ("TAGS", '["a"]'), ("MAX_FILESIZE", "5")]
    )
    def test_prints_a_text_as_it_is_and_else_json(
        self, site: Site, name: str, printed: str
    ) -> None:
        assert run(site[0], "get", name).output == f"{printed}\n"

    def test_json_adds_the_revision(self, site: Site) -> None:
        found = run(site[0], "get", "TAGS", "--json").json
        assert (found["revision"], found["value"], found["default"]) == (2, ["a"], [])

    def test_an_unknown_name_is_refused_with_the_nearest_one(self, site: Site) -> None:
        done = run(site[0], "get", "SITENAM")
        assert done.status == 1
        assert done.errors == "Error: Unknown setting SITENAM. Did you mean SITENAME?\n"


class TestHistory:
    """`flask waffle history`."""

    def test_shows_old_new_who_why_and_when_newest_first(self, site: Site) -> None:
        lines = run(site[0], "history").output.splitlines()
        when = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"
        assert re.fullmatch(rf"revision 2  {when}  bob \(page\)", lines[0])
        assert "  MAX_FILESIZE: 1000 -> 5" in lines
        assert re.fullmatch(rf"revision 1  {when}  alice \(python\)", lines[4])
        assert lines[5:] == [
            "    launch day",
            '  SITENAME: "Waffle" -> "New"',
            '  TAGS: [] -> ["a"]',
        ]

    def test_of_one_setting(self, site: Site) -> None:
        lines = run(site[0], "history", "TAGS").output.splitlines()
        assert [line for line in lines if line.startswith("  ")][1:] == ['  TAGS: [] -> ["a"]']

    def test_ends_at_its_limit_unless_all_is_asked_for(self, site: Site) -> None:
        app, waffle = site
        for number in range(60):
            waffle.update({"MAX_FILESIZE": 100 + number})
        assert len(run(app, "history", "--json").json) == 50
        assert len(run(app, "history", "--json", "--limit", "3").json) == 3
        assert len(run(app, "history", "--json", "--limit", str(10**30)).json) == 64
        assert len(run(app, "history", "--json", "--all").json) == 64

    def test_json_holds_each_change(self, site: Site) -> None:
        found = run(site[0], "history", "TAGS", "--json").json
        assert found[0].pop("at").endswith("+00:00")
        assert found == [
            {
                "revision": 1,
                "name": "TAGS",
                "old": [],
                "new": ["a"],
                "is_default": False,
                "actor": "alice",
                "comment": "launch day",
                "source": "python",
            }
        ]

    def test_of_nothing(self, apps: Apps) -> None:
        app, _ = apps(Settings)
        assert run(app, "history").output == "Nothing has been changed yet.\n"
        assert run(app, "history", "TAG").status == 1

    @pytest.mark.parametrize("name", ["\udcff", "\0"])
    def test_of_a_name_that_no_database_stores(self, database_apps: Apps, name: str) -> None:
        """As an argument has it that is not UTF-8."""
        app, waffle = database_apps(Settings)
        waffle.update({"SITENAME": "New"})
        assert run(app, "history", name).status == 1
        assert waffle.history(name) == []

    @pytest.mark.usefixtures("site")
    def test_of_a_setting_that_is_no_longer_declared(self, apps: Apps) -> None:
        class Fewer(WaffleSettings):
            SITENAME: str = "Waffle"

        app, _ = apps(Fewer, host="there")
        assert '  TAGS: [] -> ["a"]' in run(app, "history", "TAGS").output.splitlines()


class TestSecrets:
    """No secret is shown, unless it is asked for by `--reveal`."""

    COMMANDS: ClassVar = [
        ["list"],
        ["get", "API_KEY"],
        ["history"],
        ["history", "API_KEY"],
        ["export"],
    ]

    @pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
    @pytest.mark.parametrize("form", [[], ["--json"]], ids=["lines", "json"])
    def test_is_masked(self, site: Site, command: list[str], form: list[str]) -> None:
        done = run(site[0], *command, *form)
        assert "s3cret" not in done.output + done.errors
        assert "k3y" not in done.output + done.errors
        assert MASK in done.output

    @pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
    @pytest.mark.parametrize("form", [[], ["--json"]], ids=["lines", "json"])
    def test_is_revealed_on_demand(self, site: Site, command: list[str], form: list[str]) -> None:
        assert "s3cret-value" in run(site[0], *command, "--reveal", *form).output


class TestForeignText:
    """What others wrote is shown, and no terminal obeys it."""

    #: Copies to the clipboard (OSC 52), clears the screen (C1), turns text round, adds a line.
    HOSTILE = "a\x1b]52;c;ZWNobw==\x07\x9b2J\u202eb\nrevision 9  forged"

    @pytest.mark.parametrize(
        "command", [["list"], ["history"], ["get", "TAGS"], ["set", "TAGS=[]", "--expect", "0"]]
    )
    @pytest.mark.parametrize("form", [[], ["--json"]], ids=["lines", "json"])
    def test_is_printable(
        self, apps: Apps, command: list[str], form: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", "120")
        app, waffle = apps(Settings)
        values = {"SITENAME": self.HOSTILE, "TAGS": [self.HOSTILE]}
        waffle.update(values, actor=self.HOSTILE, comment=self.HOSTILE)
        done = run(app, *command, *form)
        assert "]52;" in done.output + done.errors
        assert not any(line.startswith("revision 9") for line in done.output.splitlines())
        for text in (done.output, done.errors):
            assert [c for c in text if not c.isprintable() and c != "\n"] == []
        if form and done.status == 0:
            assert self.HOSTILE in _texts(done.json), "the JSON means the same"

    def test_a_program_gets_a_text_as_it_is(self, apps: Apps) -> None:
        app, waffle = apps(Settings)
        waffle.update({"SITENAME": self.HOSTILE})
        assert run(app, "get", "SITENAME").output == f"{self.HOSTILE}\n"


def _texts(found: Any) -> list[str]:
    """Return every text in an answer."""
    if isinstance(found, dict | list):
        inner = found.values() if isinstance(found, dict) else found
        return [text for one in inner for text in _texts(one)]
    return [found] if isinstance(found, str) else []
