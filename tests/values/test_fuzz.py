"""Any text in a row of SQL: it is served as declared, or the last good value stays."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Literal

from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from tests.host.states import record
from tests.support.declarations import Bounds
from tests.support.fuzzing import fuzzed, json_values
from uwsgi_waffle.values.cipher import Cipher
from uwsgi_waffle.values.declaration import Declaration
from uwsgi_waffle.values.snapshot import build


class Smtp(BaseModel):
    """A nested model."""

    model_config = ConfigDict(frozen=True)

    host: str = "localhost"
    port: int = Field(default=25, ge=1, le=65535)


class Settings(Bounds):
    """A setting of each kind."""

    NAME: str = Field(default="Waffle", max_length=100)
    FLAG: bool = False
    RATE: float = Field(default=0.5, gt=0, le=1)
    PRICE: Decimal = Decimal("9.99")
    THEME: Literal["batter", "syrup"] = "batter"
    TAGS: tuple[str, ...] = ()
    TREE: dict[str, Any] = Field(default={})
    MAIL: Smtp = Smtp()
    SENDER: str | None = None
    PASSWORD: SecretStr = SecretStr("swordfish-of-old")
    LAUNCH: dt.datetime = dt.datetime(2026, 1, 1, tzinfo=dt.timezone.utc)
    DAY: dt.date | None = None
    NIGHTLY: dt.timedelta = dt.timedelta(hours=1)


DECLARATION = Declaration(Settings)
CIPHER = Cipher(())
GOOD = {"NAME": '"Gaufre"', "LO": "3", "HI": "8", "TAGS": '["a"]', "PASSWORD": '"swordfish-new"'}
LAST_GOOD = build(DECLARATION, CIPHER, record(1, GOOD))

texts = (
    json_values().map(json.dumps)
    | st.text(max_size=30)
    | st.sampled_from(
        [
            "1e400",
            "-0.0",
            "NaN",
            "9" * 5000,
            "[" * 5000,
            '"\\ud800"',
            "2e9",
            '"P9999999D"',
            '"\x00"',
        ]
    )
)
names = st.sampled_from(DECLARATION.names) | st.text(max_size=8)


@given(st.dictionaries(names, texts, max_size=6), st.booleans())
@example({"TREE": "[" * 100_000}, True)  # noqa: FBT003  # one of the made-up inputs
@example({"LO": "9", "NAME": '"x"'}, True)  # noqa: FBT003
@example({"LO": "11"}, True)  # noqa: FBT003  # the whole is refused
@fuzzed(200)
def test_any_rows_make_a_snapshot_and_spoil_no_good_value(
    rows: Mapping[str, str], has_last_good: bool
) -> None:
    snapshot = build(DECLARATION, CIPHER, record(2, rows), LAST_GOOD if has_last_good else None)
    served = snapshot.settings
    assert DECLARATION.validate(served, {}) == served, "what is served is as declared"
    fallback = LAST_GOOD.settings if has_last_good else DECLARATION.defaults
    refused = {value.name for value in snapshot.refused}
    for name in DECLARATION.names:
        if name in refused or "" in refused:
            assert getattr(served, name) == getattr(fallback, name)
        elif name not in rows:
            assert getattr(served, name) == getattr(DECLARATION.defaults, name)
        # Every process writes back what it serves without a change.
        text = DECLARATION.to_json(served, name)
        assert DECLARATION.to_json(DECLARATION.decode({name: text}), name) == text or name in {
            "LO",
            "HI",
        }
    assert set(snapshot.undeclared) == set(rows) - set(DECLARATION.names)
    shown = repr(snapshot) + "".join(map(str, snapshot.refused))
    assert "swordfish" not in shown
