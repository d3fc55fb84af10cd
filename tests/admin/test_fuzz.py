"""Anything that a visitor sends: an answer below 500, and settings that are valid."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from werkzeug.datastructures import MultiDict

from tests.admin.visitor import HERE, Visitor
from tests.apps.admin_pages import Settings
from tests.support.fuzzing import fuzzed, json_values

NAMES = sorted(Settings.model_fields)
names = st.sampled_from([*NAMES, "comment", "actor", "reset", "settings", "revision"])
bodies = (
    st.dictionaries(names | st.text(max_size=10), json_values(), max_size=5)
    | st.builds(lambda inner: {"settings": inner}, json_values())
    | json_values()
)
tags = st.sampled_from(['"0"', "0", "*", "", 'W/"0"', '"1", "2"', f'"{"9" * 30}"', '"-1"'])
numbers = st.integers(0, 3) | st.integers(-(10**30), 10**30) | st.text(max_size=5)


def check(visitor: Visitor, answer: Any) -> None:
    """Check that a request was answered, and that the settings are still served."""
    assert answer.status_code < 500, answer.get_data(as_text=True)
    visitor.waffle.settings.model_validate(visitor.waffle.settings.model_dump())


@given(bodies.map(json.dumps) | st.text(max_size=40), tags)
@example("[" * 100_000, "*")
@example(json.dumps({"SITENAME": "\ud800"}), "*")
@example('{"MAX_FILESIZE": ' + "9" * 5000 + "}", "*")
@example('{"RATE": NaN}', "*")
@fuzzed(150, soak=10_000)
def test_any_json_body_is_answered(visitor: Visitor, body: str, tag: str) -> None:
    headers = {"X-User": "alice", "If-Match": tag, "Content-Type": "application/json"}
    data = body.encode("utf-8", "surrogatepass")
    client = visitor.app.test_client()
    for method, path in (("PATCH", "settings"), ("POST", "rollback")):
        answer = client.open(f"{HERE}/api/{path}", method=method, data=data, headers=headers)
        check(visitor, answer)


@given(
    st.sampled_from(["", "edit", "review", "save", "history", "compare", "status", "revision/"])
    | st.sampled_from(["rollback/", "api/settings", "api/history", "api/status", "api/"]),
    numbers,
    st.dictionaries(
        st.sampled_from(["name", "limit", "before", "from", "to", "left", "right", "revision"])
        | st.text(max_size=6),
        st.text(max_size=10) | numbers.map(str),
        max_size=4,
    ),
    st.sampled_from(["GET", "POST", "PATCH", "HEAD", "OPTIONS", "DELETE"]),
)
@fuzzed(150, soak=10_000)
def test_any_address_is_answered(
    visitor: Visitor, path: str, number: object, query: dict[str, str], method: str
) -> None:
    address = f"{HERE}/{path}{number if path.endswith('/') else ''}"
    answer = visitor.client.open(
        address, method=method, query_string=query, headers={"X-User": "alice"}
    )
    check(visitor, answer)


fields = st.dictionaries(
    st.sampled_from([*NAMES, "MAIL_SERVER-host", "MAIL_SERVER-port", "comment", "base", "revision"])
    | st.text(max_size=10),
    st.text(max_size=20) | numbers.map(str),
    max_size=6,
)


@given(fields, st.sampled_from(["/review", "/edit"]))
@fuzzed(60, soak=10_000)
def test_any_filled_form_is_answered(visitor: Visitor, changes: dict[str, str], path: str) -> None:
    """As from a browser, with the token of the page."""
    form = MultiDict(visitor.get().form("/review"))
    form.update(changes)
    answer = visitor.client.post(f"{HERE}{path}", data=form, headers={"X-User": "alice"})
    check(visitor, answer)
