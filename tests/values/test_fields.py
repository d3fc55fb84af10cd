"""Settings that are validated one by one, where that gives what validating all of them would."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from decimal import Decimal
from functools import cached_property
from typing import Any

import pytest
from pydantic import (
    BaseModel,
    Field,
    HttpUrl,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from uwsgi_waffle import InvalidSetting, WaffleSettings
from uwsgi_waffle.values.cipher import Cipher
from uwsgi_waffle.values.declaration import Declaration
from uwsgi_waffle.values.position import Position
from uwsgi_waffle.values.snapshot import Record, Snapshot, build

CIPHER = Cipher(())
validated: list[str] = []


class Tree(BaseModel):
    """A value that holds others of its kind."""

    name: str = ""
    below: list[Tree] = Field(default_factory=list)


class Settings(WaffleSettings):
    """Settings of many kinds."""

    A: int = Field(0, ge=0)
    B: str = "b"
    C: SecretStr = SecretStr("secret")
    D: list[int] = Field(default_factory=lambda: [1])
    E: Tree = Tree()
    F: HttpUrl | None = None
    G: Decimal = Decimal("1.5")
    H: tuple[int, ...] = ()
    N1: int = 1
    N2: int = 2
    N3: int = 3
    N4: int = 4
    N5: int = 5
    N6: int = 6
    N7: int = 7
    N8: int = 8

    @field_validator("A", "B")
    @classmethod
    def _note(cls, value: object) -> object:
        validated.append(type(value).__name__)
        return value

    @cached_property
    def sum(self) -> int:
        """The sum of two settings, kept."""
        return self.A + self.N1


STORED = {
    "A": ["1", "2", "-1", '"x"', "{"],
    "B": ['"x"', '"y"', "1"],
    "C": ['"hush"', "null"],
    "D": ["[]", "[1,2]", '["x"]'],
    "E": ['{"name":"x","below":[{"name":"y"}]}', '{"below":1}'],
    "F": ["null", '"https://example.org/"', '"x"'],
    "G": ['"1.50"', "NaN"],
    "H": ["[1]", "[2]"],
    "N1": ["5", "6"],
    "GONE": ["1", "2"],
}


def record(number: int, rows: dict[str, str]) -> Record:
    return Record(Position("a" * 16, number, f"{number:016x}"), rows)


@pytest.mark.parametrize("seed", range(20))
def test_a_snapshot_is_the_same_whether_it_is_built_on_the_one_before_or_anew(seed: int) -> None:
    chosen = random.Random(seed)  # noqa: S311  # the same rows each time
    declaration, rows = Declaration(Settings), dict[str, str]()
    on_last = build(declaration, CIPHER, record(1, {}))
    for number in range(2, 60):
        for name in chosen.sample(sorted(STORED), chosen.choice([0, 1, 1, 2])):
            rows.pop(name, None)
            # Seldom a bad one, as from then on each snapshot is built anew.
            good = STORED[name][:2] if chosen.random() < 0.9 else STORED[name]
            if chosen.random() < 0.8:
                rows[name] = chosen.choice(good)
        here = record(number, dict(rows))
        anew = build(declaration, CIPHER, here, replace(on_last, refused=on_last.refused or _ANY))
        on_last = build(declaration, CIPHER, here, on_last)
        assert on_last == anew
        assert (dict(on_last.values), on_last.changeable) == (dict(anew.values), anew.changeable)
        assert vars(on_last.settings) == vars(anew.settings)
        assert on_last.settings.model_fields_set == anew.settings.model_fields_set
        assert isinstance(on_last.settings, Settings)
        assert on_last.settings.sum == on_last.settings.A + on_last.settings.N1


#: A problem, which says that all must be looked at.
_ANY: Any = ("a value",)


DECLARATION = Declaration(Settings)


def served(rows: dict[str, str], on: Snapshot | None = None) -> Snapshot:
    revision = 1 if on is None else on.revision + 1
    return build(DECLARATION, CIPHER, record(revision, rows), on)


def test_a_change_validates_no_other_setting() -> None:
    first = served({"A": "1", "B": '"x"'})
    validated.clear()
    second = served({"A": "1", "B": '"x"', "N1": "7"}, first)
    assert (second.values["N1"], validated) == (7, [])
    third = served({"A": "2", "B": '"x"', "N1": "7"}, second)
    assert (third.values["A"], validated) == (2, ["int"])
    back = served({"B": '"x"', "N1": "7"}, third)
    assert (back.values["A"], validated) == (0, ["int", "int"])


def test_a_write_validates_and_encodes_no_other_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    declaration = Declaration(Settings)
    before = build(declaration, CIPHER, record(1, {"A": "1", "B": '"x"'})).settings
    encoded: list[str] = []
    encode = declaration._text  # noqa: SLF001  # every encoding goes through it

    def note(name: str, value: object) -> str:
        encoded.append(name)
        return encode(name, value)

    monkeypatch.setattr(declaration, "_text", note)
    validated.clear()
    after, texts = declaration.changed(before, {"N1": "7"})
    assert (texts, encoded, validated) == ({"N1": "7"}, ["N1"], [])
    assert vars(after) == {**vars(before), "N1": 7}


def test_values_that_can_be_changed_in_place_are_made_anew() -> None:
    first = served({"D": "[3]"})
    second = served({"D": "[3]", "N1": "7"}, first)
    for name in ("D", "E", "H"):
        assert second.values[name] == first.values[name]
    assert second.values["D"] is not first.values["D"]
    assert second.values["E"] is not first.values["E"]
    assert second.changeable == {"D", "E", "H"}


class Ordered(WaffleSettings):
    """A whole that has a rule."""

    MIN: int = 0
    MAX: int = 10

    @model_validator(mode="after")
    def _in_order(self) -> Ordered:
        if self.MIN > self.MAX:
            message = "MIN is above MAX"
            raise ValueError(message)
        return self


class LooksAround(WaffleSettings):
    """A setting that looks at another."""

    MIN: int = 0
    MAX: int = 10

    @field_validator("MAX")
    @classmethod
    def _above(cls, value: int, info: ValidationInfo) -> int:
        if value < info.data["MIN"]:
            message = "MIN is above MAX"
            raise ValueError(message)
        return value


class SetsItselfUp(WaffleSettings):
    """A whole with code that runs last."""

    MIN: int = 0
    MAX: int = 10

    def model_post_init(self, _: Any, /) -> None:
        """Check the order."""
        if self.MIN > self.MAX:
            message = "MIN is above MAX"
            raise ValueError(message)


@pytest.mark.parametrize("model", [Ordered, LooksAround, SetsItselfUp])
def test_where_a_validator_sees_other_settings_all_are_validated(
    model: type[WaffleSettings],
) -> None:
    declaration = Declaration(model)
    first = build(declaration, CIPHER, record(1, {"MAX": "5"}))
    second = build(declaration, CIPHER, record(2, {"MAX": "5", "MIN": "7"}), first)
    assert second.refused
    assert json.loads(second.settings.model_dump_json()) == {"MIN": 0, "MAX": 5}
    with pytest.raises(InvalidSetting, match="MIN is above MAX"):
        declaration.changed(first.settings, {"MIN": 7})
