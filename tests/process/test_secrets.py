"""Secrets: never shown, never logged, and encrypted at rest where there are keys."""

from __future__ import annotations

import logging
import pickle
import sys
import traceback
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from pydantic import Field, SecretStr, field_validator

from tests.conftest import Apps, execute, state_of
from tests.support.pickles import Bomb
from uwsgi_waffle import ConfigError, InvalidSetting, StoreUnavailable, WaffleError, WaffleSettings

#: A text that occurs nowhere else, so that where it occurs it was shown.
MARK = "Geheim7"
OTHER = "Anders8"
MASK = "********"


class Settings(WaffleSettings):
    """Secrets of each kind, and a setting that is not secret."""

    PASSWORD: SecretStr = Field(default=SecretStr("initial"), min_length=3)
    TOKEN: str | None = Field(default=None, max_length=20, json_schema_extra={"secret": True})
    PIN: int = Field(default=1, json_schema_extra={"secret": True})
    SITENAME: str = "Waffle"

    @field_validator("TOKEN")
    @classmethod
    def talkative(cls, value: str | None) -> str | None:
        """Repeat the value in the error, as a careless validator does."""
        if value is not None and value.startswith("bad"):
            message = f"{value} is bad"
            raise ValueError(message)
        if value is not None and value.startswith("worse"):
            raise KeyError(value)
        return value


CONFS = {"TOKEN": {"default": "", "secret": True, "max_length": 20}}


def everything(apps: Apps) -> str:
    """Return everything that is stored: in each column of SQL, and in the host snapshot."""
    rows = [
        *execute(apps.database_uri, "SELECT * FROM waffle_setting"),
        *execute(apps.database_uri, "SELECT * FROM waffle_change"),
    ]
    files = [path.read_bytes() for path in apps.directory.glob("*/snapshot*")]
    assert files
    return f"{rows} {b''.join(files).decode('latin-1')}"


def test_the_repr_of_nothing_shows_a_secret(apps: Apps) -> None:
    app, waffle = apps(Settings)
    done = waffle.update({"PASSWORD": MARK, "TOKEN": MARK, "PIN": 77123})
    state = state_of(app)
    shown = f"{done!r} {done} {waffle.settings!r} {waffle.settings} {state.serving.current!r}"
    shown += f"{state.store.read()!r} {state.host.read()!r} {waffle.history()!r}"
    assert MARK not in shown
    assert "77123" not in shown
    assert waffle.settings.PASSWORD.get_secret_value() == waffle.settings.TOKEN == MARK


def test_history_masks_secrets_unless_it_is_asked_to_reveal_them(apps: Apps) -> None:
    _, waffle = apps(Settings)
    waffle.update({"TOKEN": MARK, "SITENAME": "New"})
    waffle.update({"TOKEN": OTHER})
    assert [(c.name, c.old, c.new) for c in waffle.history()] == [
        ("TOKEN", MASK, MASK),
        ("SITENAME", "Waffle", "New"),
        ("TOKEN", MASK, MASK),
    ]
    revealed = waffle.history("TOKEN", reveal=True)
    assert [(c.old, c.new) for c in revealed] == [(MARK, OTHER), (None, MARK)]


@pytest.mark.parametrize(
    "values",
    [
        {"TOKEN": MARK * 10},
        {"TOKEN": f"bad {MARK}"},
        {"TOKEN": f"worse {MARK}"},
        {"TOKEN": [MARK]},
        {"PIN": MARK},
        {"PASSWORD": {"x": MARK}},
        {"PASSWORD": SecretStr("x"), "TOKEN": MARK, "SITENAME": 5},
    ],
)
def test_an_error_never_shows_a_secret(apps: Apps, values: dict[str, object]) -> None:
    """Not in its message, not in pydantic's errors, and not in the traceback."""
    _, waffle = apps(Settings)
    with pytest.raises(InvalidSetting) as caught:
        waffle.update(values)
    assert MARK not in f"{caught.value} {caught.value!r} {caught.value.errors}"
    assert MARK not in without_source(caught.value)


def without_source(error: BaseException) -> str:
    """Return a traceback as it is logged, without its lines of code."""
    lines = "".join(traceback.format_exception(error)).splitlines()
    return "\n".join(line for line in lines if not line.startswith("    "))


def test_an_error_of_the_database_never_shows_a_value(apps: Apps) -> None:
    _, waffle = apps(Settings)
    waffle.update({"SITENAME": "New"})
    execute(
        apps.database_uri,
        "CREATE TRIGGER refuse BEFORE INSERT ON waffle_setting "
        "BEGIN SELECT RAISE(ABORT, 'refused'); END",
    )
    with pytest.raises(StoreUnavailable, match="refused") as caught:
        waffle.update({"TOKEN": MARK})
    assert MARK not in without_source(caught.value)


def test_no_log_line_shows_a_secret(apps: Apps, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    _, waffle = apps(Settings)
    waffle.update({"TOKEN": MARK, "PASSWORD": MARK})
    for text in (f'"bad {MARK}"', f'"worse {MARK}"', f'"{MARK * 10}"', MARK, f'["{MARK}"]'):
        execute(
            apps.database_uri,
            f"UPDATE waffle_setting SET value = '{text}' WHERE name = 'TOKEN'",  # noqa: S608
            "UPDATE waffle_namespace SET revision = revision + 1",
        )
        waffle.refresh()
        apps(Settings, host=f"host-{len(text)}")
    assert "cannot be used" in caplog.text
    assert MARK not in caplog.text


def test_with_keys_secrets_are_encrypted_in_sql_and_in_the_host_snapshot(
    database_apps: Apps,
) -> None:
    keys = [Fernet.generate_key().decode()]
    app, waffle = database_apps(Settings, WAFFLE_ENCRYPTION_KEYS=keys)
    waffle.update({"TOKEN": MARK, "PASSWORD": MARK, "SITENAME": "Plain9"})
    waffle.update({"TOKEN": OTHER})
    stored = everything(database_apps)
    assert MARK not in stored
    assert OTHER not in stored
    assert "Plain9" in stored
    assert "initial" not in stored, "a default that was replaced is a secret too"
    there = database_apps(Settings, host="there", WAFFLE_ENCRYPTION_KEYS=keys)[1]
    assert (there.settings.TOKEN, there.settings.PASSWORD.get_secret_value()) == (OTHER, MARK)
    assert [c.new for c in there.history("TOKEN", reveal=True)] == [OTHER, MARK]
    # Equal values are equal, although each encryption of them is another one.
    assert waffle.update({"TOKEN": OTHER}).changes == {}
    assert waffle.rollback(1).changes == {"TOKEN": (OTHER, MARK)}
    assert app.config["TOKEN"] == MARK


def test_without_keys_secrets_are_stored_as_they_are_and_can_be_sealed_later(apps: Apps) -> None:
    _, waffle = apps(Settings)
    waffle.update({"TOKEN": MARK})
    assert MARK in everything(apps)
    _, later = apps(Settings, WAFFLE_ENCRYPTION_KEYS=[Fernet.generate_key().decode()])
    assert later.settings.TOKEN == MARK
    later.update({"TOKEN": OTHER})
    assert OTHER not in everything(apps)


def test_the_first_key_encrypts_and_all_decrypt(apps: Apps) -> None:
    old, new = (Fernet.generate_key().decode() for _ in range(2))
    apps(Settings, WAFFLE_ENCRYPTION_KEYS=[old])[1].update({"TOKEN": MARK})
    _, both = apps(Settings, WAFFLE_ENCRYPTION_KEYS=[new, old])
    assert both.settings.TOKEN == MARK
    both.update({"TOKEN": OTHER})
    assert apps(Settings, host="b", WAFFLE_ENCRYPTION_KEYS=[new])[1].settings.TOKEN == OTHER
    assert apps(Settings, host="c", WAFFLE_ENCRYPTION_KEYS=[old])[1].settings.TOKEN is None


def test_with_the_wrong_key_the_default_is_served_and_the_log_says_what_to_do(
    apps: Apps, caplog: pytest.LogCaptureFixture
) -> None:
    keys = [Fernet.generate_key().decode() for _ in range(2)]
    first = apps(Settings, WAFFLE_ENCRYPTION_KEYS=keys[:1])[1]
    first.update({"TOKEN": MARK})
    first.update({"TOKEN": OTHER, "SITENAME": "New"})
    for config, reason in (
        ({"WAFFLE_ENCRYPTION_KEYS": keys[1:]}, "none of the keys in WAFFLE_ENCRYPTION_KEYS opens"),
        ({}, "is encrypted; set WAFFLE_ENCRYPTION_KEYS"),
    ):
        app, waffle = apps(Settings, host=f"{len(config)}", **config)
        assert (waffle.settings.TOKEN, waffle.settings.SITENAME) == (None, "New")
        assert reason in state_of(app).serving.current.refused[0].reason
        assert reason in caplog.text
        assert [(c.old, c.new) for c in waffle.history("TOKEN", reveal=True)] == [(MASK, MASK)] * 2
        with pytest.raises(InvalidSetting, match=reason):
            waffle.rollback(1)
        assert waffle.revision == 2
    # With the right key the value is still there: nothing has been replaced.
    assert apps(Settings, host="d", WAFFLE_ENCRYPTION_KEYS=keys)[1].settings.TOKEN == OTHER
    caplog.clear()
    mended = apps(Settings, host="e", WAFFLE_ENCRYPTION_KEYS=keys[1:])[1]
    assert mended.update({"TOKEN": "new"}).changes == {"TOKEN": (MASK, "new")}


def test_a_wrong_key_is_an_error_that_names_which(apps: Apps) -> None:
    with pytest.raises(ConfigError, match="key 2 of 2 is not a Fernet key") as caught:
        apps(Settings, WAFFLE_ENCRYPTION_KEYS=[Fernet.generate_key().decode(), MARK])
    assert MARK not in without_source(caught.value)


def test_keys_without_cryptography_are_an_error_that_names_what_to_install(
    apps: Apps, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "cryptography"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(ConfigError, match=r"pip install uwsgi-waffle\[encryption\]"):
        apps(Settings, WAFFLE_ENCRYPTION_KEYS=["x"])
    assert apps(Settings, host="there")[1].settings.SITENAME == "Waffle"


def test_no_value_is_ever_unpickled(apps: Apps, tmp_path: Path) -> None:
    """Not from SQL, not from the host snapshot, not from history, and not as a new value."""
    proof = tmp_path / "ran"
    text = pickle.dumps(Bomb(proof), 0).decode().replace("'", "''")
    _, waffle = apps(Settings)
    waffle.update({"SITENAME": "New"})
    execute(
        apps.database_uri,
        f"UPDATE waffle_setting SET value = '{text}'",  # noqa: S608
        f"UPDATE waffle_change SET old = '{text}', new = '{text}'",  # noqa: S608
        "UPDATE waffle_namespace SET revision = revision + 1",
    )
    waffle.refresh()
    assert waffle.settings.SITENAME == "New"
    assert apps(Settings)[1].settings.SITENAME == "Waffle"  # from the snapshot, that has the row
    assert waffle.history()[0].new == pickle.dumps(Bomb(proof), 0).decode()
    with pytest.raises(WaffleError):
        waffle.rollback(1)
    waffle.update({"SITENAME": pickle.dumps(Bomb(proof), 0).decode()})
    assert apps(Settings, host="there")[1].revision == waffle.revision
    assert not proof.exists()
