"""Declarations that are strict with Python code: pages and JSON give values by JSON's rules."""

from __future__ import annotations

import datetime as dt
import enum
from decimal import Decimal

import pytest
from pydantic import ConfigDict

from tests.admin.conftest import MakeVisitor
from uwsgi_waffle import WaffleSettings


class Level(enum.Enum):
    """How much is logged."""

    LOW = "low"
    HIGH = "high"


class Strict(WaffleSettings):
    """Settings of types that JSON has no form of their own for, and of those that it has."""

    model_config = ConfigDict(strict=True)

    NAMES: tuple[str, ...] = ()
    NUMBERS: frozenset[int] = frozenset()
    DAY: dt.date = dt.date(2020, 1, 1)
    PERIOD: dt.timedelta = dt.timedelta(1)
    PRICE: Decimal = Decimal(1)
    LEVEL: Level = Level.LOW
    RATIO: float = 1.0
    COUNT: int = 1
    EITHER: dt.date | str = dt.date(2020, 1, 1)


#: Name, what the JSON interface is given, what is typed into a page, and what is served then.
CASES = [
    ("NAMES", ["a"], '["a"]', ("a",)),
    ("NUMBERS", [2, 1], "[2, 1]", frozenset({1, 2})),
    ("DAY", "2021-02-03", "2021-02-03", dt.date(2021, 2, 3)),
    ("PERIOD", "P2D", "P2D", dt.timedelta(2)),
    (
        "PRICE",
        "2.25000000000000000001",
        "2.25000000000000000001",
        Decimal("2.25000000000000000001"),
    ),
    ("LEVEL", "high", '"high"', Level.HIGH),
    ("RATIO", 2.5, "2.50", 2.5),
    ("COUNT", 7, "7", 7),
    ("EITHER", "2021-02-03", '"2021-02-03"', dt.date(2021, 2, 3)),
]


@pytest.mark.parametrize(("name", "given", "_typed", "served"), CASES)
def test_the_json_interface_sets_each_type(
    make_visitor: MakeVisitor, name: str, given: object, _typed: str, served: object
) -> None:
    visitor = make_visitor(Strict)
    answer = visitor.api("PATCH", "/settings", {name: given}, revision=0)
    assert answer.status_code == 200, answer.text
    assert getattr(visitor.waffle.settings, name) == served


@pytest.mark.parametrize(("name", "_given", "typed", "served"), CASES)
def test_the_pages_set_each_type(
    make_visitor: MakeVisitor, name: str, _given: object, typed: str, served: object
) -> None:
    visitor = make_visitor(Strict)
    assert visitor.change(**{name: typed}).status == 303
    assert getattr(visitor.waffle.settings, name) == served


def test_a_refusal_is_that_of_json(make_visitor: MakeVisitor) -> None:
    answer = make_visitor(Strict).api("PATCH", "/settings", {"NAMES": ["a", 1]}, revision=0)
    assert answer.json is not None
    (error,) = answer.json["errors"]
    assert (error["loc"], error["msg"]) == (["NAMES", 1], "Input should be a valid string")


def test_a_value_may_go_with_what_is_reset_beside_it(make_visitor: MakeVisitor) -> None:
    visitor = make_visitor(Strict)
    visitor.waffle.update({"COUNT": 5})
    body = {"NAMES": ["a"], "reset": ["COUNT"]}
    assert visitor.api("PATCH", "/settings", body, revision=1).status_code == 200
    assert (visitor.waffle.settings.NAMES, visitor.waffle.settings.COUNT) == (("a",), 1)
