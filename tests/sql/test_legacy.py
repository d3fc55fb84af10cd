"""Pickles: one that holds a value gives it, and nothing is run of one that does more."""

from __future__ import annotations

import base64
import builtins
import collections
import datetime as dt
import decimal
import os
import pickle
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uwsgi_waffle.sql.legacy import RefusedPickle, unpickle

#: Those that Flask-WaffleConf may have used on Python 3; on 3.14 it is the last.
PROTOCOLS = (3, 4, 5)

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
)
KEYS = st.integers() | st.text() | st.tuples(st.integers(), st.text())
VALUES = st.recursive(
    SCALARS | st.sets(KEYS) | st.frozensets(KEYS),
    lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner) | st.tuples(inner, inner),
    max_leaves=20,
)


def encoded(data: bytes) -> str:
    """Return a pickle as the table holds it."""
    return base64.b64encode(data).decode()


@given(VALUES, st.sampled_from(PROTOCOLS))
def test_any_value_of_scalars_and_containers_comes_back(value: object, protocol: int) -> None:
    back = unpickle(encoded(pickle.dumps(value, protocol)))
    assert back == value
    assert type(back) is type(value)


def test_texts_of_python_2_come_back() -> None:
    assert unpickle(encoded(b"S'abc'\np0\n.")) == "abc"
    assert unpickle(encoded(b"c__builtin__\nset\np0\n((lp1\nI1\naI2\natp2\nRp3\n.")) == {1, 2}


class Call:
    """Its pickle calls a function when it is loaded."""

    def __init__(self, function: Any, *arguments: object) -> None:
        self.function = function
        self.arguments = arguments

    def __reduce__(self) -> tuple[Any, tuple[object, ...]]:
        """Return the call."""
        return self.function, self.arguments


def _crafted(path: Path) -> list[object]:
    """Return objects whose pickles would make a file at *path*."""
    command = f"touch {path}"
    return [
        Call(os.system, command),
        Call(subprocess.check_call, ["touch", str(path)]),
        Call(builtins.open, str(path), "w"),
        Call(builtins.eval, f"open({str(path)!r}, 'w')"),
        Call(getattr, Path(path), "touch"),
        [1, {"a": (Call(os.system, command),)}],
    ]


@pytest.mark.parametrize("protocol", range(6))
def test_a_crafted_pickle_runs_nothing(tmp_path: Path, protocol: int) -> None:
    """When Python loads the pickles they make a file, and here they do nothing."""
    canary = tmp_path / "canary"
    for crafted in _crafted(canary):
        with pytest.raises(RefusedPickle):
            unpickle(encoded(pickle.dumps(crafted, protocol)))
        assert not canary.exists()
    pickle.loads(pickle.dumps(_crafted(canary)[0], protocol))  # noqa: S301  to see that they would
    assert canary.exists()


@pytest.mark.parametrize(
    "data",
    [
        b"cos\nsystem\n(S'true'\ntR.",
        b"(ios\nsystem\nS'true'\n.",
        b"(cos\nsystem\nS'true'\no.",
        b"\x80\x02cbuiltins\nset\nN}b.",
        b"\x80\x02cbuiltins\nset\n)\x81.",
        b"P1\n.",
        b"\x80\x02\x82\x01.",
        b"cbuiltins\ngetattr\n.",
        b"cbuiltins.set\n__class__\n.",
        b"\x80\x04\x8c\x08builtins\x8c\rset.__class__\x93.",
        b"r\xff\xff\xff\x7f.",
        b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7fx.",
        b"\x80\xff.",
        b".",
        b"(",
        b"]",
        b"garbage",
        b"",
    ],
)
def test_an_opcode_that_does_more_than_hold_a_value_is_refused(data: bytes) -> None:
    with pytest.raises(RefusedPickle):
        unpickle(encoded(data))


@pytest.mark.parametrize(
    "value",
    [dt.date(2020, 1, 1), decimal.Decimal(1), collections.OrderedDict(a=1), Path("x"), 1j],
    ids=repr,
)
def test_a_value_of_another_type_is_refused_with_the_name_of_the_type(value: object) -> None:
    with pytest.raises(RefusedPickle, match=r"its pickle names \w+\.\w+"):
        unpickle(encoded(pickle.dumps(value)))


@pytest.mark.parametrize("text", ["!!", "é", "gASVBQAAAA", "Z2Fy"])
def test_a_text_that_is_not_a_pickle_is_refused(text: str) -> None:
    with pytest.raises(RefusedPickle):
        unpickle(text)


@pytest.mark.parametrize("value", [set, [frozenset], {"a": (1, {"b": set})}])
def test_a_class_is_no_value(value: object) -> None:
    """A pickle may name two, to make sets of them."""
    with pytest.raises(RefusedPickle, match="holds a class"):
        unpickle(encoded(pickle.dumps(value)))


def test_a_small_pickle_of_an_endless_value_is_refused() -> None:
    doubled: list[object] = []
    for _ in range(45):
        doubled = [doubled, doubled]
    with pytest.raises(RefusedPickle, match="more than 100,000 values"):
        unpickle(encoded(pickle.dumps(doubled)))
    itself: list[object] = []
    itself.append(itself)
    with pytest.raises(RefusedPickle, match="nested"):
        unpickle(encoded(pickle.dumps(itself)))


NESTED = b"N" + b"\x71\x00h\x00\x86" * 45


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x04\x8f(" + NESTED + b"\x90.",  # an element of a set
        b"\x80\x04(" + NESTED + b"\x91.",  # of a frozenset
        b"\x80\x02}" + NESTED + b"Ns.",  # a key
        b"\x80\x02}(" + NESTED + b"Nu.",  # one of several keys
        b"(" + NESTED + b"Nd.",
        b"c__builtin__\nset\n(](" + NESTED + b"etR.",
    ],
)
def test_a_small_pickle_that_would_be_hashed_for_ever_is_refused(data: bytes) -> None:
    """A tuple that holds another one twice, which holds another one twice, and so on."""
    with pytest.raises(RefusedPickle, match=r"more than 100,000 values|nested more than 50"):
        unpickle(encoded(data))


def test_a_large_value_with_keys_and_sets_is_taken() -> None:
    value = {("a", number): {number, str(number)} for number in range(10_000)}
    for protocol in range(6):
        assert unpickle(encoded(pickle.dumps(value, protocol))) == value
