"""The history: secrets stay secret, and no stored text breaks it."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from tests.conftest import Apps, execute
from uwsgi_waffle import WaffleSettings

MASK = "********"


class Declared(WaffleSettings):
    """A secret."""

    TOKEN: SecretStr = SecretStr("none")
    SIZE: int = 1


class Plain(WaffleSettings):
    """The same, as no secret."""

    TOKEN: str = "none"  # noqa: S105  # no secret
    SIZE: int = 1


class Gone(WaffleSettings):
    """The next release."""

    OTHER: int = 1


def shown(apps: Apps, settings: type[WaffleSettings], name: str) -> set[object]:
    _, waffle = apps(settings, host=settings.__name__)
    return {value for change in waffle.history(name) for value in (change.old, change.new)}


def test_what_was_a_secret_stays_one(database_apps: Apps) -> None:
    _, waffle = database_apps(Declared)
    waffle.update({"TOKEN": "Geheim7", "SIZE": 2})
    assert "Geheim7" not in str(shown(database_apps, Gone, "TOKEN"))
    assert "Geheim7" not in str(shown(database_apps, Plain, "TOKEN"))
    assert shown(database_apps, Gone, "SIZE") == {1, 2}


def test_a_row_that_does_not_tell_is_secret_unless_its_setting_is_declared(
    database_apps: Apps,
) -> None:
    """Such rows are of release 0.1.0."""
    _, waffle = database_apps(Declared)
    waffle.update({"TOKEN": "Geheim7", "SIZE": 2})
    execute(database_apps.database_uri, "ALTER TABLE waffle_change DROP COLUMN is_secret")
    assert shown(database_apps, Declared, "SIZE") == {1, 2}
    for name in ("TOKEN", "SIZE"):
        assert not {"Geheim7", 2} & shown(database_apps, Gone, name)
    assert waffle.update({"SIZE": 3}).revision == 2


@pytest.mark.parametrize(
    "text", ["[" * 100_000 + "]" * 100_000, "[" * 100_000], ids=["ends", "open"]
)
def test_json_of_any_depth_in_a_row_breaks_nothing(text: str, apps: Apps) -> None:
    _, waffle = apps(Plain)
    waffle.update({"TOKEN": "x", "SIZE": 2})
    execute(
        apps.database_uri,
        f"UPDATE waffle_change SET old = '{text}', new = '{text}'",  # noqa: S608  # ours
        f"UPDATE waffle_setting SET value = '{text}'",  # noqa: S608  # ours
        "UPDATE waffle_namespace SET stamp = '2222222222222222'",
    )
    waffle.refresh()
    assert {change.name for change in waffle.history()} == {"SIZE", "TOKEN"}
    _, later = apps(Plain, host="there")
    assert later.settings.SIZE == 1
    assert len(later.status().problems) >= 2
    assert later.history("SIZE")[0].new == text
    _, without = apps(Gone, host="elsewhere")
    assert len(without.history()) == 2
    assert later.update({"SIZE": 3, "TOKEN": "y"}).revision == 2
