"""Equal values have one stored form, so that none of them makes a revision of another."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import subprocess
import sys
from collections import deque
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import (
    VERSION,
    BaseModel,
    Field,
    RootModel,
    create_model,
    field_serializer,
    field_validator,
)

from tests.conftest import Apps
from uwsgi_waffle import WaffleSettings
from uwsgi_waffle.values.declaration import Declaration

CET = dt.timezone(dt.timedelta(hours=1))
NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.timezone.utc)
PLUS_ONE = dt.datetime(2026, 1, 1, 13, tzinfo=CET)


class Price(BaseModel):
    """A value with parts."""

    amount: Decimal = Field(default=Decimal(0), alias="the-amount")
    tags: set[str] = set()


class Prices(RootModel[list[Price]]):
    """A model without fields of its own."""


@dataclasses.dataclass
class Range:
    """A dataclass."""

    start: dt.datetime
    ends: set[int]


class Named(NamedTuple):
    """A tuple with names."""

    at: dt.datetime
    ratio: float


class Euros(BaseModel):
    """A model that writes a part of itself in its own way."""

    amount: Decimal = Decimal(0)

    @field_serializer("amount")
    def write(self, amount: Decimal) -> str:
        return f"{amount} EUR"

    @field_validator("amount", mode="before")
    @classmethod
    def read(cls, text: object) -> object:
        return text.removesuffix(" EUR") if isinstance(text, str) else text


def price(amount: str, *tags: str) -> Price:
    return Price.model_validate({"the-amount": Decimal(amount), "tags": set(tags)})


#: A type, and two values of it that are equal.
EQUAL: dict[str, tuple[Any, Any, Any]] = {
    "set": (set[str], {"a", "b", "c"}, {"c", "b", "a"}),
    "dict of sets": (dict[str, set[str]], {"x": {"a", "b", "c"}}, {"x": {"c", "b", "a"}}),
    "list of sets": (list[set[str]], [{"a", "b", "c"}], [{"c", "b", "a"}]),
    "set of sets": (
        frozenset[frozenset[str]],
        frozenset({frozenset("ab"), frozenset("cd")}),
        frozenset({frozenset("dc"), frozenset("ba")}),
    ),
    "dict in another order": (dict[str, int], {"a": 1, "b": 2}, {"b": 2, "a": 1}),
    "zero": (float, 0.0, -0.0),
    "zero in a list": (list[float], [0.0], [-0.0]),
    "zero as a key": (dict[float, int], {0.0: 1}, {-0.0: 1}),
    "decimal": (Decimal, Decimal("2.5"), Decimal("2.50")),
    "large decimal": (Decimal, Decimal(100), Decimal("1E2")),
    "huge decimal": (Decimal, Decimal("1E400"), Decimal("10E399")),
    "long decimal": (Decimal, Decimal("1." + "1" * 40), Decimal("1." + "1" * 40 + "0")),
    "decimal zero": (Decimal, Decimal(0), Decimal("-0.00")),
    "decimal in a list": (list[Decimal], [Decimal("2.5")], [Decimal("2.50")]),
    "decimal as a key": (dict[Decimal, int], {Decimal("2.5"): 1}, {Decimal("2.50"): 1}),
    "set of decimals": (
        set[Decimal],
        {Decimal("2.5"), Decimal(1)},
        {Decimal("1.0"), Decimal("2.50")},
    ),
    "datetime": (dt.datetime, NOON, PLUS_ONE),
    "datetime in a dict": (dict[str, dt.datetime], {"a": NOON}, {"a": PLUS_ONE}),
    "datetime as a key": (dict[dt.datetime, int], {NOON: 1}, {PLUS_ONE: 1}),
    "datetime in a tuple": (tuple[int, dt.datetime], (1, NOON), (1, PLUS_ONE)),
    "time": (dt.time, dt.time(12, tzinfo=dt.timezone.utc), dt.time(13, tzinfo=CET)),
    "optional": (Decimal | None, Decimal("2.5"), Decimal("2.50")),
    "model": (Price, price("2.5", "a", "b", "c"), price("2.50", "c", "b", "a")),
    "list of models": (list[Price], [price("2.5", "a", "b")], [price("2.50", "b", "a")]),
    "root model": (Prices, Prices([price("2.5")]), Prices([price("2.50")])),
    "dataclass": (Range, Range(NOON, {1, 2, 300}), Range(PLUS_ONE, {300, 2, 1})),
    "named tuple": (Named, Named(NOON, 0.0), Named(PLUS_ONE, -0.0)),
    "deque": (deque[Decimal], deque([Decimal("2.5")]), deque([Decimal("2.50")])),
    "anything": (Any, {"a": [Decimal("2.5")]}, {"a": [Decimal("2.50")]}),
}
if tuple(map(int, VERSION.split(".")[:2])) < (2, 14):
    del EQUAL["deque"]  # these cannot write it as JSON, so that no setting can be of that type


def declared(kind: Any, default: object) -> type[WaffleSettings]:
    """Return settings of which X is of that type."""
    fields: dict[str, Any] = {"X": (kind, default)}
    return create_model("Settings", __base__=WaffleSettings, **fields)


@pytest.mark.parametrize("kind", [kind for kind in EQUAL if kind != "anything"])
def test_a_value_equal_to_the_present_one_makes_no_revision(apps: Apps, kind: str) -> None:
    annotation, one, other = EQUAL[kind]
    assert one == other
    waffle = apps(declared(annotation, one))[1]
    done = waffle.update({"X": other})
    assert (done.revision, done.changes) == (0, {})
    # Nor does one that is equal to a value which was stored.
    waffle = apps(declared(annotation | None, None), host="there")[1]
    assert waffle.update({"X": one}).revision == 1
    assert waffle.update({"X": other}).revision == 1
    assert dict(waffle.settings) == {"X": other}


@pytest.mark.parametrize("kind", [kind for kind in EQUAL if kind != "anything"])
def test_equal_values_have_one_text(kind: str) -> None:
    annotation, one, other = EQUAL[kind]
    texts = {stored_text(declared(annotation, value)) for value in (one, other)}
    assert len(texts) == 1


def stored_text(model: type[WaffleSettings]) -> str:
    return Declaration(model).default_json["X"]


def test_no_other_process_finds_another_text() -> None:
    """Each process goes through a set in an order of its own."""
    script = (
        "from tests.values.test_equal_values import EQUAL, declared, stored_text\n"
        "for kind in ('dict of sets', 'list of sets', 'set of sets', 'model', 'dataclass'):\n"
        "    print(stored_text(declared(*EQUAL[kind][:2])))"
    )
    found = {
        subprocess.check_output(
            [sys.executable, "-c", script], text=True, env={"PYTHONHASHSEED": seed}
        )
        for seed in ("1", "2", "3")
    }
    assert len(found) == 1


def test_what_an_application_writes_in_its_own_way_stays_so() -> None:
    assert stored_text(declared(Euros, Euros(amount=Decimal("2.50")))) == '{"amount":"2.50 EUR"}'


@pytest.mark.parametrize(
    ("kind", "one", "other"),
    [
        (bool | int, 1, True),
        (int | float, 1, 1.0),
        (dict[str, Any], {"a": 1}, {"a": True}),
        (list[int], [1, 2], [2, 1]),
        (str, "é", "e\u0301"),
    ],
)
def test_what_a_type_tells_apart_is_a_change(
    apps: Apps, kind: Any, one: object, other: object
) -> None:
    waffle = apps(declared(kind, one))[1]
    assert waffle.update({"X": other}).revision == 1


_zones = st.integers(-23 * 60, 23 * 60).map(lambda m: dt.timezone(dt.timedelta(minutes=m)))
_instants = st.datetimes(timezones=_zones)
_decimals = st.decimals(allow_nan=False, allow_infinity=False)
_floats = st.floats(allow_nan=False, allow_infinity=False)


def _variant(value: Any, draw: Any) -> Any:
    """Return an equal value that is written in another way."""
    if isinstance(value, Decimal):
        sign, digits, exponent = value.as_tuple()
        zeros = draw(st.integers(0, 3))
        assert isinstance(exponent, int)
        return Decimal((sign, digits + (0,) * zeros, exponent - zeros))
    if isinstance(value, dt.datetime):
        return value.astimezone(draw(_zones))
    if value == 0 and isinstance(value, float):
        return -value
    if isinstance(value, Mapping):
        items = draw(st.permutations(list(value.items())))
        return {_variant(key, draw): _variant(part, draw) for key, part in items}
    if isinstance(value, list | frozenset):
        parts = value if isinstance(value, list) else draw(st.permutations(list(value)))
        return type(value)(_variant(part, draw) for part in parts)
    return value


class Deep(WaffleSettings):
    """Everything within everything."""

    INSTANTS: dict[str, list[dt.datetime]] = {}  # noqa: RUF012  pydantic gives each its own
    NUMBERS: list[dict[Decimal, frozenset[Decimal]]] = []  # noqa: RUF012  likewise
    RATIOS: list[frozenset[float]] = []  # noqa: RUF012  likewise
    NESTED: frozenset[frozenset[str]] = frozenset()


@settings(max_examples=100, deadline=None)
@given(
    st.fixed_dictionaries(
        {
            "INSTANTS": st.dictionaries(
                st.text(max_size=3), st.lists(_instants, max_size=3), max_size=3
            ),
            "NUMBERS": st.lists(
                st.dictionaries(_decimals, st.frozensets(_decimals, max_size=3), max_size=2),
                max_size=2,
            ),
            "RATIOS": st.lists(st.frozensets(_floats, max_size=3), max_size=3),
            "NESTED": st.frozensets(st.frozensets(st.text(max_size=3), max_size=3), max_size=3),
        }
    ),
    st.data(),
)
def test_however_equal_values_are_written_they_have_one_text(
    values: dict[str, Any], data: st.DataObject
) -> None:
    declaration = Declaration(Deep)
    one = Deep(**values)
    other = Deep(**_variant(values, data.draw))
    for name in declaration.names:
        text = declaration.to_json(one, name)
        assert getattr(one, name) == getattr(other, name)
        assert declaration.to_json(other, name) == text
        assert json.loads(text) is not None
    texts = {name: declaration.to_json(one, name) for name in declaration.names}
    assert declaration.round_trip(one, texts) == one
