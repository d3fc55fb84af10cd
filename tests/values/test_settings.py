"""Declarations: both styles, every type, and what cannot be declared."""

from __future__ import annotations

import datetime as dt
import enum
import itertools
import json
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, Optional
from uuid import UUID

import pytest
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
)

from tests.conftest import Apps, state_of
from tests.support.declarations import Bounds
from uwsgi_waffle import ConfigError, InvalidSetting, UnknownSetting, WaffleConf, WaffleSettings
from uwsgi_waffle.values.declaration import Declaration


class Color(enum.Enum):
    """A choice."""

    RED = "red"
    GREEN = "green"


class Server(BaseModel):
    """A value with parts."""

    host: str = "localhost"
    ports: list[int] = [80]
    tls: Optional[bool] = None  # noqa: UP045  both spellings must work


class Typed(WaffleSettings):
    """One setting of each type that an application may have."""

    TEXT: str = ""
    COUNT: int = Field(default=1, ge=0)
    RATIO: float = 0.5
    FLAG: bool = False
    PRICE: Decimal = Decimal("1.10")
    AT: dt.datetime = dt.datetime(2020, 1, 1, tzinfo=dt.timezone.utc)
    DAY: dt.date = dt.date(2020, 1, 1)
    PERIOD: dt.timedelta = dt.timedelta(minutes=5)
    COLOR: Color = Color.RED
    LEVEL: Literal["low", "high"] = "low"
    MAYBE: int | None = None
    EITHER: int | str = 1
    NUMBERS: list[int] = [1]  # noqa: RUF012  pydantic gives each instance its own
    PAIR: tuple[int, str] = (1, "a")
    NAMES: frozenset[str] = frozenset({"a", "b"})
    LIMITS: dict[str, float] = Field(default_factory=lambda: {"a": 1.0})
    SERVER: Server = Server()
    SERVERS: list[Server] = [Server()]  # noqa: RUF012  likewise
    WHERE: Path = Path("/srv")
    IDENTITY: UUID = UUID(int=1)
    RAW: bytes = b"x"
    PASSWORD: SecretStr = SecretStr("secret")
    TOKEN: SecretStr | None = None
    NICKNAME: str = Field(default="nick", alias="nick-name", max_length=10)


#: Name, what an operator gives, and what is served then.
CHANGES: list[tuple[str, object, object]] = [
    ("TEXT", "größer 🧇\n", "größer 🧇\n"),
    ("COUNT", "7", 7),
    ("COUNT", 10**30, 10**30),
    ("RATIO", 2, 2.0),
    ("FLAG", "yes", True),
    ("PRICE", "2.50", Decimal("2.50")),
    ("PRICE", Decimal("0.1"), Decimal("0.1")),
    (
        "AT",
        "2021-01-01T00:00:00.123456+00:00",
        dt.datetime(2021, 1, 1, microsecond=123456, tzinfo=dt.timezone.utc),
    ),
    ("DAY", "2021-02-03", dt.date(2021, 2, 3)),
    ("PERIOD", 90, dt.timedelta(seconds=90)),
    ("COLOR", "green", Color.GREEN),
    ("COLOR", Color.GREEN, Color.GREEN),
    ("LEVEL", "high", "high"),
    ("MAYBE", 3, 3),
    ("EITHER", "5", "5"),
    ("EITHER", 5, 5),
    ("NUMBERS", ["1", 2], [1, 2]),
    ("NUMBERS", [], []),
    ("PAIR", [2, "b"], (2, "b")),
    ("NAMES", {"c", "d"}, frozenset({"c", "d"})),
    ("LIMITS", {"b": 2}, {"b": 2.0}),
    ("SERVER", {"host": "h"}, Server(host="h")),
    ("SERVER", Server(ports=[1, 2]), Server(ports=[1, 2])),
    ("SERVERS", [{"tls": True}], [Server(tls=True)]),
    ("WHERE", "/opt", Path("/opt")),
    ("IDENTITY", str(UUID(int=2)), UUID(int=2)),
    ("RAW", b"text", b"text"),
    ("PASSWORD", "new", SecretStr("new")),
    ("TOKEN", SecretStr("new"), SecretStr("new")),
    ("NICKNAME", "other", "other"),
]


class Simple(WaffleSettings):
    """The settings of the documentation's first example."""

    SITENAME: str = Field(default="Waffle", description="Name shown in the header")
    MAX_FILESIZE: int = Field(default=1000, ge=1, description="Max upload size (bytes)")


SIMPLE_CONFS: dict[str, dict[str, Any]] = {
    "SITENAME": {"desc": "Name shown in the header", "default": "Waffle"},
    "MAX_FILESIZE": {"desc": "Max upload size (bytes)", "default": 1000, "ge": 1},
}


@pytest.mark.parametrize("style", ["class", "confs"])
def test_both_styles_give_the_same_settings(apps: Apps, style: str) -> None:
    if style == "class":
        app, waffle = apps(Simple)
    else:
        app, waffle = apps(WAFFLE_CONFS=SIMPLE_CONFS)
    fields = state_of(app).declaration.model.model_fields
    assert list(fields) == ["SITENAME", "MAX_FILESIZE"]
    assert fields["SITENAME"].description == "Name shown in the header"
    assert fields["MAX_FILESIZE"].annotation is int
    assert waffle.settings.model_dump() == {"SITENAME": "Waffle", "MAX_FILESIZE": 1000}
    waffle.update({"SITENAME": "New", "MAX_FILESIZE": "5"})
    assert waffle.settings.MAX_FILESIZE == app.config["MAX_FILESIZE"] == 5
    with pytest.raises(InvalidSetting, match="MAX_FILESIZE: Input should be greater than"):
        waffle.update({"MAX_FILESIZE": 0})
    with pytest.raises(InvalidSetting, match="MAX_FILESIZE: Input should be a valid integer"):
        waffle.update({"MAX_FILESIZE": "many"})
    with pytest.raises(UnknownSetting):
        waffle.update({"MAXFILESIZE": 1})
    with pytest.raises(ValidationError, match="frozen"):
        waffle.settings.SITENAME = "changed"
    assert waffle.revision == 1


def test_an_extension_can_be_made_before_its_application(apps: Apps) -> None:
    waffle = WaffleConf(settings=Simple)
    apps.init(waffle, apps.flask())
    assert waffle.settings.SITENAME == "Waffle"


@pytest.mark.parametrize(("name", "given", "served"), CHANGES)
def test_a_value_of_each_type_is_stored_and_served_as_it_is(
    apps: Apps, name: str, given: object, served: object
) -> None:
    app, waffle = apps(Typed)
    done = waffle.update({name: given})
    assert done.changes == {name: (getattr(Typed(), name), served)}
    (change,) = waffle.history(reveal=True)
    assert (change.old, change.new) == (getattr(Typed(), name), served)
    assert type(change.new) is type(served)
    elsewhere, there = apps(Typed, host="there")
    for reader, config in ((waffle, app.config), (there, elsewhere.config)):
        assert getattr(reader.settings, name) == config[name] == served
        assert type(getattr(reader.settings, name)) is type(served)
        others = {other: getattr(reader.settings, other) for other in Typed.model_fields}
        assert {**others, name: None} == {**dict(Typed()), name: None}
    assert state_of(elsewhere).serving.current.refused == ()
    # The same value again is no change, and a reset is one.
    assert waffle.update({name: given}).revision == 1
    assert waffle.reset(name).changes == {name: (served, getattr(Typed(), name))}


def test_every_setting_can_change_at_once(apps: Apps) -> None:
    _, waffle = apps(Typed)
    values = {name: given for name, given, _ in CHANGES}
    done = waffle.update(values)
    assert (done.revision, done.changes.keys()) == (1, values.keys())


def test_a_setting_takes_one_of_its_choices(apps: Apps) -> None:
    _, waffle = apps(WAFFLE_CONFS={"LEVEL": {"default": 1, "choices": [1, 2, "max"]}})
    assert waffle.update({"LEVEL": "max"}).changes == {"LEVEL": (1, "max")}
    with pytest.raises(InvalidSetting, match="Input should be 1, 2 or 'max'"):
        waffle.update({"LEVEL": 3})


@pytest.mark.parametrize(
    ("conf", "bad"),
    [
        ({"default": "a", "max_length": 3}, "abcd"),
        ({"default": "a", "pattern": "^[a-z]$"}, "1"),
        ({"default": 1.0, "gt": 0, "lt": 2}, 2),
        ({"default": None, "type": Optional[int]}, "x"),  # noqa: UP045  as in older code
        ({"default": [1], "type": list[int]}, ["x"]),
        ({"default": 5, "multiple_of": 5}, 7),
        ({"default_factory": dict, "type": dict[str, int]}, {"a": "x"}),
    ],
)
def test_any_constraint_of_pydantic_may_stand_in_waffle_confs(
    apps: Apps, conf: dict[str, Any], bad: object
) -> None:
    _, waffle = apps(WAFFLE_CONFS={"X": conf})
    with pytest.raises(InvalidSetting):
        waffle.update({"X": bad})
    assert waffle.revision == 0


@pytest.mark.parametrize(
    ("name", "conf", "reason"),
    [
        ("sitename", {"default": 1}, "Call it SITENAME"),
        ("MAX-SIZE", {"default": 1}, "upper case letters, digits and underscores"),
        ("_X", {"default": 1}, "upper case letters"),
        ("X\n", {"default": 1}, "upper case letters"),
        ("WAFFLE_COLOR", {"default": 1}, "names that begin with WAFFLE_"),
        ("X" * 151, {"default": 1}, "at most 150"),
        ("X", {}, "Setting X has no default"),
        ("X", {"default": None}, "X has no type, and None does not show it"),
        ("X", {"default_factory": int}, "has no type, and a 'default_factory' does not show it"),
        ("X", {"default": 1, "default_factory": int, "type": int}, "cannot specify both"),
        ("X", {"default": 1, "gee": 0}, "unknown entry 'gee'"),
        ("X", {"default": 1, "choices": []}, "no choices"),
        ("X", {"default": 1, "choices": 5}, "not iterable"),
        ("X", {"default": "a", "choices": "abc"}, "are a text. Give a list"),
        ("X", {"default": 3, "choices": [1, 2]}, "Input should be 1 or 2"),
        ("X", {"default": 0, "ge": 1}, "greater than or equal to 1"),
        ("X", {"default": "a", "ge": 1}, "Unable to apply constraint"),
        ("X", {"default": "a", "pattern": "("}, "unclosed group"),
        ("X", {"default": "a", "type": int}, "valid integer"),
        ("X", {"default": 1, "type": "NoSuchType"}, "NoSuchType"),
        ("X", {"default": object()}, "JSON has no form for it"),
        ("X", {"default": print}, "schema"),
        ("X", {"default": float("nan")}, "JSON has no form for it"),
        ("X", {"default": b"\xff"}, "JSON has no form for it"),
        ("X", {"default": "x" * 300_000}, "300,002 bytes"),
        ("X", {"default_factory": itertools.count().__next__, "type": int}, "another default"),
        ("X", {"default": (1, 2), "type": Any}, "come back from JSON as another value"),
    ],
)
def test_what_cannot_be_declared_is_an_error_in_one_line(
    apps: Apps, name: str, conf: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        apps(WAFFLE_CONFS={name: conf})
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("model", [5, "Settings", BaseModel, dict, Simple()])
def test_only_a_subclass_of_waffle_settings_declares(apps: Apps, model: Any) -> None:
    with pytest.raises(ConfigError, match="subclass of WaffleSettings"):
        apps(model)


def test_settings_that_could_be_changed_in_place_are_refused(apps: Apps) -> None:
    class Loose(WaffleSettings):
        model_config = ConfigDict(frozen=False)
        X: int = 1

    with pytest.raises(ConfigError, match="not frozen"):
        apps(Loose)


def test_the_defaults_must_pass_the_validator_of_the_whole(apps: Apps) -> None:
    class Reversed(Bounds):
        LO: int = 5
        HI: int = 1

    with pytest.raises(ConfigError, match="LO must not exceed HI"):
        apps(Reversed)


def test_any_exception_of_a_validator_is_an_invalid_setting(apps: Apps) -> None:
    class Fragile(WaffleSettings):
        X: str = "a"

        @field_validator("X")
        @classmethod
        def look_up(cls, value: str) -> str:
            return {"a": "a", "b": "b"}[value]

    _, waffle = apps(Fragile)
    with pytest.raises(InvalidSetting, match="a validator raised KeyError: 'c'"):
        waffle.update({"X": "c"})
    assert waffle.update({"X": "b"}).revision == 1


def test_a_field_validator_may_normalise(apps: Apps) -> None:
    """The normalised value is stored, compared and served."""

    class Tidy(WaffleSettings):
        X: str = "a"

        @field_validator("X")
        @classmethod
        def tidy(cls, value: str) -> str:
            return value.strip().lower()

    _, waffle = apps(Tidy)
    assert waffle.update({"X": " A "}).revision == 0
    assert waffle.update({"X": " B "}).changes == {"X": ("a", "b")}
    assert waffle.settings.X == "b"


def test_stored_texts_are_canonical_json() -> None:
    texts = Declaration(Typed).default_json
    for text in texts.values():
        assert json.dumps(json.loads(text), sort_keys=True, separators=(",", ":")) == text
    assert texts["NAMES"] == '["a","b"]'
