"""`export`, `import` and `adopt-legacy`: settings that move elsewhere."""

from __future__ import annotations

import base64
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field, SecretStr

from tests.cli.conftest import Site
from tests.conftest import Apps, execute
from tests.support.command_line import run_in_process as run
from uwsgi_waffle import WaffleConf, WaffleSettings


class Settings(WaffleSettings):
    """Settings whose values are not all plain JSON."""

    SITENAME: str = "Waffle"
    MAX_FILESIZE: int = Field(1000, ge=1)
    TAGS: frozenset[str] = frozenset()
    LIMIT: tuple[int, int] = (1, 2)
    API_KEY: SecretStr = SecretStr("k")


VALUES: dict[str, Any] = {
    "SITENAME": "Gaufre é",
    "MAX_FILESIZE": 5,
    "TAGS": {"b", "a"},
    "LIMIT": (3, 4),
    "API_KEY": "s3cret",
}


@pytest.fixture
def site(apps: Apps) -> Site:
    """Give an application with every setting changed."""
    app, waffle = apps(Settings)
    waffle.update(VALUES)
    return app, waffle


@pytest.fixture
def other(apps: Apps, tmp_path: Path) -> Site:
    """Give the same application elsewhere, unchanged."""
    return apps(Settings, host="there", WAFFLE_DATABASE_URI=f"sqlite:///{tmp_path}/other.db")


def test_a_round_trip_is_one_revision_with_the_same_values(site: Site, other: Site) -> None:
    exported = run(site[0], "export", "--reveal").output
    done = run(other[0], "import", "-", typed=exported.encode())
    assert done.status == 0, done.errors
    assert other[1].revision == 1
    assert other[1].settings == site[1].settings
    assert all(c.source == "cli" for c in other[1].history())
    assert all(c.comment == "import of <stdin>" for c in other[1].history())


def test_an_export_names_its_source(site: Site) -> None:
    found = json.loads(run(site[0], "export").output)
    assert (found["namespace"], found["revision"]) == ("default", 1)
    assert found["settings"]["API_KEY"] == "********"
    assert found["settings"]["TAGS"] == ["a", "b"]


def test_a_masked_secret_stays_as_it_is(site: Site, other: Site) -> None:
    """`import` names a secret that `export` masked, and does not change it."""
    exported = run(site[0], "export").output
    done = run(other[0], "import", "-", typed=exported.encode())
    assert "API_KEY" in done.errors
    assert other[1].settings.API_KEY.get_secret_value() == "k"
    assert other[1].settings.SITENAME == "Gaufre é"


def test_a_dry_run_shows_the_difference_and_changes_nothing(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text('{"settings": {"MAX_FILESIZE": 7, "SITENAME": "Gaufre é"}}')
    done = run(site[0], "import", str(path), "--dry-run")
    assert done.output == (
        "MAX_FILESIZE: 5 -> 7\nDry run: 1 setting would change; revision 1 stays.\n"
    )
    found = run(site[0], "import", str(path), "--dry-run", "--json").json
    assert found == {
        "revision": 1,
        "changes": {"MAX_FILESIZE": {"old": 5, "new": 7}},
        "dry_run": True,
    }
    assert site[1].revision == 1


@pytest.mark.parametrize("dry_run", [[], ["--dry-run"]], ids=["import", "dry run"])
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "is not JSON"),
        pytest.param("[" * 100_000, "is not JSON", id="nested too deep"),
        ("[]", "is not what `export` writes"),
        ('{"settings": []}', "is not what `export` writes"),
        ('{"settings": {"NOPE": 1}}', "Unknown setting NOPE"),
        ('{"settings": {"MAX_FILESIZE": 7, "LIMIT": [1]}}', "LIMIT"),
        ('{"settings": {"MAX_FILESIZE": 0}}', "greater than or equal to 1"),
    ],
)
def test_what_cannot_be_imported_is_refused_whole(
    site: Site, text: str, reason: str, dry_run: list[str]
) -> None:
    done = run(site[0], "import", "-", *dry_run, typed=text)
    assert done.status == 1
    assert done.errors.count("\n") == 1
    assert reason in done.errors
    assert site[1].revision == 1


def test_a_missing_file_is_a_usage_error(site: Site) -> None:
    assert run(site[0], "import", "nowhere.json").status == 2


def _legacy(value: object) -> str:
    """Return a value as Flask-WaffleConf 0.3 stores it."""
    return base64.b64encode(pickle.dumps(value)).decode()


@pytest.fixture
def legacy(other: Site, tmp_path: Path) -> Site:
    """Give an application whose database holds a table of Flask-WaffleConf as well."""
    _fill_legacy_table(f"sqlite:///{tmp_path}/other.db", "confs", "key", "value")
    return other


def _fill_legacy_table(url: str, table: str, key: str, value: str) -> None:
    rows = {
        "SITENAME": _legacy("Gaufre é"),
        "TAGS": _legacy({"a", "b"}),
        "LIMIT": _legacy([3, 4]),
        "MAX_FILESIZE": _legacy(0),
        "API_KEY": _legacy(Path("x")),
        "GONE": _legacy(1),
    }
    execute(
        url,
        f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, {key} VARCHAR(255), {value} TEXT)",
        *(
            f"INSERT INTO {table} ({key}, {value}) VALUES ('{name}', '{text}')"  # noqa: S608  all ours
            for name, text in rows.items()
        ),
    )


def _assert_adopted(waffle: WaffleConf[Any]) -> None:
    assert waffle.revision == 1
    assert waffle.settings.SITENAME == "Gaufre é"
    assert sorted(waffle.settings.TAGS) == ["a", "b"]
    assert waffle.settings.LIMIT == (3, 4)
    assert waffle.settings.MAX_FILESIZE == 1000


def test_a_table_of_flask_waffleconf_is_imported_as_one_revision(legacy: Site) -> None:
    """What is not imported is named with the reason: refused, more than a value, not declared."""
    done = run(legacy[0], "adopt-legacy")
    assert done.status == 0, done.errors
    _assert_adopted(legacy[1])
    lines = [line for line in done.errors.splitlines() if line.startswith("Left: ")]
    left = dict(line.split(": ", 2)[1:] for line in lines)
    assert left.keys() == {"MAX_FILESIZE", "API_KEY", "GONE"}
    assert "greater than or equal to 1" in left["MAX_FILESIZE"]
    assert left["API_KEY"].startswith("its pickle names pathlib.")
    assert left["GONE"] == "it is not declared"
    assert legacy[1].history()[0].comment == "adopted from table confs"


def test_a_dry_run_of_an_adoption_changes_nothing(legacy: Site) -> None:
    done = run(legacy[0], "adopt-legacy", "--dry-run")
    assert 'SITENAME: "Waffle" -> "Gaufre é"' in done.output
    assert "Dry run: 3 settings would change" in done.output
    found = run(legacy[0], "adopt-legacy", "--dry-run", "--json").json
    assert found["left"].keys() == {"MAX_FILESIZE", "API_KEY", "GONE"}
    assert legacy[1].revision == 0


def test_the_table_may_have_other_names_and_be_elsewhere(other: Site, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/elsewhere.db"
    _fill_legacy_table(url, "old", "k", "v")
    arguments = ["--database", url, "--table", "old", "--key-column", "k", "--value-column", "v"]
    assert run(other[0], "adopt-legacy", *arguments).status == 0
    _assert_adopted(other[1])


def test_a_name_in_lower_case_is_imported_in_upper_case(legacy: Site, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/other.db"
    execute(url, "UPDATE confs SET key = 'sitename' WHERE key = 'SITENAME'")
    execute(url, f"INSERT INTO confs (key, value) VALUES ('limit', '{_legacy([9])}')")  # noqa: S608  ours
    done = run(legacy[0], "adopt-legacy")
    _assert_adopted(legacy[1])
    assert "Left: limit: there is LIMIT, too" in done.errors


def test_a_table_that_is_not_there_is_named(other: Site) -> None:
    done = run(other[0], "adopt-legacy", "--table", "nowhere")
    assert done.status == 1
    assert done.errors.count("\n") == 1
    assert "The table nowhere" in done.errors


def test_another_database_that_cannot_work_is_named_as_it_was_given(other: Site) -> None:
    done = run(other[0], "adopt-legacy", "--database", "nowhere")
    assert done.status == 1
    assert "Error: --database = 'nowhere'" in done.errors
