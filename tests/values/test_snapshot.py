"""Snapshots: whole, validated, never backwards, and never stopped by what is stored."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import Field, SecretStr, field_validator

from tests.support.declarations import Bounds
from uwsgi_waffle.values.cipher import Cipher
from uwsgi_waffle.values.declaration import Declaration
from uwsgi_waffle.values.position import Position
from uwsgi_waffle.values.snapshot import Delta, Record, RefusedValue, Snapshot, build


class Settings(Bounds):
    """Settings with everything that can be refused."""

    LO: int = 0
    TEXT: str = Field(default="text", max_length=5)
    PASSWORD: SecretStr = Field(default=SecretStr("pass"), min_length=3)

    @field_validator("TEXT")
    @classmethod
    def fragile(cls, text: str) -> str:
        """Fail as no validator should."""
        if text == "raise":
            raise RuntimeError(text)
        return text


DECLARATION = Declaration(Settings)


def built(
    rows: dict[str, str], last_good: Snapshot | None = None, *, revision: int = 1
) -> Snapshot:
    record = Record(Position("a" * 16, revision, f"{revision:016x}"), rows)
    return build(DECLARATION, Cipher(), record, last_good)


def test_what_is_not_stored_has_its_default() -> None:
    snapshot = built({"LO": "3"})
    assert snapshot.settings == Settings(LO=3)
    assert snapshot.values == dict(Settings(LO=3))
    assert snapshot.refused == ()


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("LO", "{broken", "it is not JSON: "),
        ("LO", "", "it is not JSON: "),
        ("LO", "NaN", "it is not JSON: "),
        ("LO", "[" * 100_000, "it is not JSON: "),
        ("LO", '"three"', "Input should be a valid integer"),
        ("LO", "null", "Input should be a valid integer"),
        ("TEXT", '"too long"', "at most 5 characters"),
        ("LO", "cposix\nsystem\n(S'touch /nowhere'\ntR.", "it is not JSON: "),
        ("LO", '1,"TEXT":"in"', "it is not JSON: "),
        ("LO", '1}{"LO":2', "it is not JSON: "),
    ],
)
def test_for_a_bad_value_the_last_good_one_or_the_default_is_served(
    name: str, text: str, reason: str
) -> None:
    """The good values beside it are served."""
    fresh = built({"HI": "20", name: text})
    assert fresh.settings == Settings(HI=20)
    assert [(p.name, p.serving) for p in fresh.refused] == [(name, "default")]
    assert reason in fresh.refused[0].reason

    good = built({"LO": "7", "TEXT": '"good"'})
    later = built({"HI": "30", "LO": "7", "TEXT": '"good"', name: text}, good)
    assert later.settings == Settings(HI=30, LO=7, TEXT="good")
    assert [(p.name, p.serving) for p in later.refused] == [(name, "last good value")]


def test_for_settings_refused_as_a_whole_the_last_good_ones_are_served() -> None:
    good = built({"LO": "3", "HI": "5", "TEXT": '"good"'})
    refused = built({"LO": "6", "HI": "5", "TEXT": '"new"'}, good, revision=2)
    assert refused.settings == good.settings
    assert refused.position.revision == 2
    assert refused.refused == (
        RefusedValue("", "last good value", "Value error, LO must not exceed HI"),
    )
    assert built({"LO": "6", "HI": "5"}).settings == Settings()


def test_where_a_substitute_conflicts_with_the_rest_the_last_good_settings_are_served() -> None:
    """HI=2 is good and LO is broken, but 3, the last good value of LO, conflicts with HI=2."""
    good = built({"LO": "3", "HI": "5"})
    assert built({"LO": "broken", "HI": "2"}, good).settings == good.settings


def test_a_validator_may_raise_anything() -> None:
    """Its message is left out, as it may repeat one of the secrets."""
    snapshot = built({"TEXT": '"raise"', "LO": "3"})
    assert snapshot.settings == Settings()
    assert snapshot.refused == (RefusedValue("", "default", "a validator raised RuntimeError"),)


def test_a_problem_of_a_secret_never_repeats_it() -> None:
    for text in ('"ab"', "Geheim7", "[7]"):
        (problem,) = built({"PASSWORD": text}).refused
        assert "Geheim7" not in str(problem)
        assert "ab" not in problem.reason.split()
    assert "Geheim7" not in repr(built({"PASSWORD": '"Geheim7"'}))
    assert "Geheim7" not in repr(Record(rows={"PASSWORD": '"Geheim7"'}, keys=("Geheim7",)))


def test_what_another_release_declares_is_noted() -> None:
    snapshot = built({"GONE": "1", "LO": "2", "ALSO_GONE": "broken"})
    assert snapshot.undeclared == ("ALSO_GONE", "GONE")
    assert (snapshot.settings, snapshot.refused) == (Settings(LO=2), ())


json_texts = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
).map(json.dumps)
names = st.sampled_from([*Settings.model_fields, "GONE", "lower", ""])


@given(rows=st.dictionaries(names, json_texts | st.text(max_size=30)), has_last_good=st.booleans())
@example(rows={"LO": "1", "HI": "0"}, has_last_good=True)
@example(rows={"TEXT": '"\\ud800"'}, has_last_good=False)
@example(rows={"LO": "1e400"}, has_last_good=True)
def test_a_process_builds_valid_settings_from_any_record(
    *, rows: dict[str, str], has_last_good: bool
) -> None:
    last_good = built({"LO": "2", "HI": "3"}) if has_last_good else None
    snapshot = built(rows, last_good, revision=5)
    assert Settings.model_validate(dict(snapshot.settings)) == snapshot.settings
    assert snapshot.position.revision == 5
    for name in Settings.model_fields:
        if name not in rows and not snapshot.refused:
            assert getattr(snapshot.settings, name) == getattr(Settings(), name)


HERE, THERE = (Position("a" * 16, revision, f"{revision:016x}") for revision in (1, 4))
OPEN = frozenset({"LO", "TEXT"})


def test_what_leads_from_one_record_to_a_later_one_makes_it_of_the_first() -> None:
    before = Record(HERE, {"LO": "1", "TEXT": '"a"'}, ("key",))
    after = Record(THERE, {"LO": "2", "PASSWORD": "fernet:x"}, ("key",))
    delta = Delta.between(before, after, OPEN)
    assert delta == Delta(HERE, THERE, {"LO": "2", "TEXT": None, "PASSWORD": "fernet:x"})
    assert delta is not None
    assert delta.apply(before) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (Record(HERE, {}), Record(THERE, {"PASSWORD": '"clear"'})),
        (Record(HERE, {}), Record(THERE, {"OF_ANOTHER_RELEASE": "1"})),
        (Record(HERE, {}, ("key",)), Record(THERE, {}, ("new key", "key"))),
        (Record(Position("b" * 16, 1, "c" * 16), {}), Record(THERE, {})),
        (Record(Position("a" * 16, 1, ""), {}), Record(THERE, {})),
    ],
    ids=["secret", "undeclared", "keys", "lineage", "stamp"],
)
def test_what_is_not_certain_or_must_not_be_told_is_not(before: Record, after: Record) -> None:
    assert Delta.between(before, after, OPEN) is None
    assert Delta.between(Record(HERE, {"PASSWORD": '"x"'}), Record(THERE, {}), OPEN) is not None
