"""Snapshots: whole, validated, never backwards, and never stopped by what is stored."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import Field, SecretStr, field_validator, model_validator
from typing_extensions import Self

from uwsgi_waffle import WaffleSettings
from uwsgi_waffle.values.cipher import Cipher
from uwsgi_waffle.values.settings import Declaration
from uwsgi_waffle.values.snapshot import Holder, Problem, Record, Snapshot, build

LINEAGE = "a" * 16
OTHER_LINEAGE = "b" * 16


class Settings(WaffleSettings):
    """Settings with every kind of thing that can be refused."""

    LO: int = 0
    HI: int = 10
    TEXT: str = Field(default="text", max_length=5)
    PASSWORD: SecretStr = Field(default=SecretStr("pass"), min_length=3)

    @field_validator("TEXT")
    @classmethod
    def fragile(cls, text: str) -> str:
        """Fail as no validator should."""
        if text == "raise":
            raise RuntimeError(text)
        return text

    @model_validator(mode="after")
    def ordered(self) -> Self:
        """Hold LO below HI."""
        if self.LO > self.HI:
            message = "LO must not exceed HI"
            raise ValueError(message)
        return self


DECLARATION = Declaration(Settings)


def built(
    rows: dict[str, str], last_good: Snapshot | None = None, *, revision: int = 1
) -> Snapshot:
    return build(DECLARATION, Cipher(), Record(LINEAGE, revision, rows), last_good)


def test_what_is_not_stored_has_its_default() -> None:
    snapshot = built({"LO": "3"})
    assert snapshot.settings == Settings(LO=3)
    assert snapshot.values == dict(Settings(LO=3))
    assert snapshot.problems == ()


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
def test_a_bad_value_gives_way_to_the_last_good_one_else_the_default(
    name: str, text: str, reason: str
) -> None:
    """And the good ones beside it are served."""
    fresh = built({"HI": "20", name: text})
    assert fresh.settings == Settings(HI=20)
    assert [(p.name, p.serving) for p in fresh.problems] == [(name, "default")]
    assert reason in fresh.problems[0].reason

    good = built({"LO": "7", "TEXT": '"good"'})
    later = built({"HI": "30", "LO": "7", "TEXT": '"good"', name: text}, good)
    assert later.settings == Settings(HI=30, LO=7, TEXT="good")
    assert [(p.name, p.serving) for p in later.problems] == [(name, "last good value")]


def test_a_whole_that_is_refused_gives_way_as_a_whole() -> None:
    good = built({"LO": "3", "HI": "5", "TEXT": '"good"'})
    refused = built({"LO": "6", "HI": "5", "TEXT": '"new"'}, good, revision=2)
    assert refused.settings == good.settings
    assert refused.revision == 2
    assert refused.problems == (
        Problem(None, "Value error, LO must not exceed HI", "last good value"),
    )
    assert built({"LO": "6", "HI": "5"}).settings == Settings()


def test_a_substitute_that_does_not_go_with_the_rest_gives_way_as_a_whole() -> None:
    """HI=2 is good and LO is broken, but LO's last good value, 3, does not go with it."""
    good = built({"LO": "3", "HI": "5"})
    assert built({"LO": "broken", "HI": "2"}, good).settings == good.settings


def test_a_validator_that_raises_anything_stops_nothing() -> None:
    """Its own words are left out, as this declaration has secrets for it to repeat."""
    snapshot = built({"TEXT": '"raise"', "LO": "3"})
    assert snapshot.settings == Settings()
    assert snapshot.problems == (Problem(None, "a validator raised RuntimeError", "default"),)


def test_a_problem_of_a_secret_never_repeats_it() -> None:
    for text in ('"ab"', "Geheim7", "[7]"):
        (problem,) = built({"PASSWORD": text}).problems
        assert "Geheim7" not in str(problem)
        assert "ab" not in problem.reason.split()
    assert "Geheim7" not in repr(built({"PASSWORD": '"Geheim7"'}))
    assert "Geheim7" not in repr(Record(LINEAGE, 1, {"PASSWORD": '"Geheim7"'}))


def test_what_another_release_declares_is_noted() -> None:
    snapshot = built({"GONE": "1", "LO": "2", "ALSO_GONE": "broken"})
    assert snapshot.undeclared == ("ALSO_GONE", "GONE")
    assert (snapshot.settings, snapshot.problems) == (Settings(LO=2), ())


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
def test_no_record_stops_a_process_or_gives_it_what_is_invalid(
    *, rows: dict[str, str], has_last_good: bool
) -> None:
    last_good = built({"LO": "2", "HI": "3"}) if has_last_good else None
    snapshot = build(DECLARATION, Cipher(), Record(LINEAGE, 5, rows), last_good)
    assert Settings.model_validate(dict(snapshot.settings)) == snapshot.settings
    assert snapshot.revision == 5
    for name in Settings.model_fields:
        if name not in rows and not snapshot.problems:
            assert getattr(snapshot.settings, name) == getattr(Settings(), name)


@pytest.mark.parametrize(
    ("lineage", "revision", "supersedes"),
    [
        (LINEAGE, 5, False),
        (LINEAGE, 4, False),
        (LINEAGE, 6, True),
        (OTHER_LINEAGE, 1, True),
    ],
)
def test_within_a_lineage_revisions_order_and_another_lineage_wins(
    *, lineage: str, revision: int, supersedes: bool
) -> None:
    assert Record(lineage, revision).supersedes(LINEAGE, 5) is supersedes
    swaps: list[tuple[int, int]] = []
    first = built({}, revision=5)
    holder = Holder(first, lambda old, new: swaps.append((old.revision, new.revision)))
    snapshot = build(DECLARATION, Cipher(), Record(lineage, revision, {}))
    assert holder.swap(snapshot) is supersedes
    assert holder.current is (snapshot if supersedes else first)
    assert swaps == ([(5, revision)] if supersedes else [])


def test_an_emptied_database_supersedes_nothing_that_was_ever_written() -> None:
    assert not Record().supersedes(LINEAGE, 5)
    assert not Record().supersedes("", 0)
    assert Record(LINEAGE, 1).supersedes("", 0)


def test_threads_that_swap_at_once_never_take_the_holder_back() -> None:
    """Each swap is told once and in order, whoever comes first."""
    swaps: list[tuple[int, int]] = []
    holder = Holder(
        built({}, revision=0), lambda old, new: swaps.append((old.revision, new.revision))
    )
    snapshots = [built({}, revision=revision) for revision in range(1, 401)]
    start = threading.Barrier(8)
    went_back: list[Any] = []

    def swap(offset: int) -> None:
        start.wait()
        seen = 0
        for snapshot in snapshots[offset::8]:
            holder.swap(snapshot)
            now = holder.current.revision
            if now < seen or now < snapshot.revision:
                went_back.append((seen, now, snapshot.revision))
            seen = now

    threads = [threading.Thread(target=swap, args=(offset,)) for offset in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert went_back == []
    assert holder.current.revision == 400
    assert [old for old, _ in swaps] == [0, *(new for _, new in swaps[:-1])]
    assert all(old < new for old, new in swaps)


def test_a_holder_works_in_a_child_forked_while_a_thread_held_its_lock() -> None:
    holder = Holder(built({}), lambda _old, _new: None)
    holder._lock.acquire()  # noqa: SLF001  as another thread of the parent may have
    holder.after_fork()
    assert holder.swap(built({}, revision=2))
