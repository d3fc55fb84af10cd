"""Any bytes in a table of Flask-WaffleConf: a plain value, or refused."""

from __future__ import annotations

import base64
import contextlib
import pickle
import pickletools

from hypothesis import example, given
from hypothesis import strategies as st

from tests.sql.test_legacy import VALUES
from tests.support.fuzzing import fuzzed
from uwsgi_waffle.sql.legacy import RefusedPickle, unpickle

CODES = [code.code.encode("latin-1") for code in pickletools.opcodes]
BUILDING = [code.code.encode("latin-1") for code in pickletools.opcodes if code.arg is None]
ARGUMENTS = st.binary(max_size=9) | st.sampled_from(
    [b"\x00", b"\x01", b"\xff\xff\xff\x7f", b"1\n", b"os\nsystem\n", b"builtins\nset\n", b"'a'\n"]
)
programs = st.lists(
    st.sampled_from(BUILDING) | st.builds(lambda c, a: c + a, st.sampled_from(CODES), ARGUMENTS),
    max_size=30,
).map(b"".join)
damaged = st.tuples(VALUES.map(pickle.dumps), st.integers(0, 200), st.binary(max_size=4)).map(
    lambda cut: cut[0][: cut[1]] + cut[2] + cut[0][cut[1] + 1 :]
)
PLAIN = (type(None), bool, int, float, str, bytes, bytearray, list, tuple, dict, set, frozenset)


@given(programs | damaged | st.binary(max_size=60))
@example(b"\x80\x04" + b"]" + b"2" * 100_000 + b".")
@example(b"(" * 100_000 + b"t" * 100_000 + b".")
@example(b"]\x94" + b"(h\x00h\x00e" * 30 + b".")
@example(b"L" + b"9" * 100_000 + b"L\n.")
@fuzzed(250)
def test_any_bytes_are_a_plain_value_or_refused(data: bytes) -> None:
    with contextlib.suppress(RefusedPickle):
        assert type(unpickle(base64.b64encode(data).decode())) in PLAIN


@given(st.text(max_size=60))
@fuzzed(200)
def test_any_text_is_a_plain_value_or_refused(text: str) -> None:
    with contextlib.suppress(RefusedPickle):
        assert type(unpickle(text)) in PLAIN
