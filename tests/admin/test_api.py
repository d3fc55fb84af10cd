"""The JSON interface."""

from __future__ import annotations

import io
from typing import Any

import pytest

from tests.admin.conftest import MakeVisitor
from tests.admin.visitor import HERE, Visitor
from tests.conftest import execute
from uwsgi_waffle.admin import api


def test_settings_have_the_revision_as_etag(visitor: Visitor) -> None:
    visitor.waffle.update({"SITENAME": "New"}, actor="bob", comment="why")
    answer = visitor.api("GET", "/settings")
    assert (answer.status_code, answer.headers["ETag"]) == (200, '"1"')
    assert answer.json is not None
    assert answer.json["revision"] == 1
    assert answer.json["settings"]["SITENAME"] == "New"
    assert answer.json["settings"]["MAIL_PASSWORD"] == "********"  # noqa: S105  # the mask is not a secret
    known = answer.json["declarations"]["SITENAME"]
    assert (known["default"], known["is_default"], known["changed"]["actor"]) == (
        "Waffle",
        False,
        "bob",
    )


@pytest.mark.parametrize(
    "body",
    [
        {"SITENAME": "New", "ALLOWED": ["gif"], "comment": "why"},
        {"settings": {"SITENAME": "New", "ALLOWED": ["gif"]}, "comment": "why"},
    ],
)
def test_patch_changes_some_settings_as_one_revision(visitor: Visitor, body: Any) -> None:
    answer = visitor.api("PATCH", "/settings", body, revision=0)
    assert (answer.status_code, answer.headers["ETag"]) == (200, '"1"')
    assert answer.json is not None
    assert answer.json["changes"]["SITENAME"] == {"old": "Waffle", "new": "New"}
    assert visitor.waffle.settings.ALLOWED == ("gif",)
    change = visitor.waffle.history()[0]
    assert (change.actor, change.comment, change.source) == ("alice", "why", "api")


def test_patch_refuses_two_values_for_one_setting(visitor: Visitor) -> None:
    body = {"settings": {"SITENAME": "New"}, "SITENAME": "Other"}
    answer = visitor.api("PATCH", "/settings", body, revision=0)
    assert answer.status_code == 422
    assert "SITENAME is given twice" in answer.get_data(as_text=True)
    assert visitor.waffle.revision == 0


def test_patch_sets_back_to_defaults_in_the_same_revision(visitor: Visitor) -> None:
    visitor.waffle.update({"SITENAME": "New"})
    body = {"RATE": 1, "reset": ["SITENAME"]}
    assert visitor.api("PATCH", "/settings", body, revision=1).status_code == 200
    assert {(c.name, c.is_default) for c in visitor.waffle.history(limit=2)} == {
        ("RATE", False),
        ("SITENAME", True),
    }


def test_a_conflict_holds_both_versions(visitor: Visitor) -> None:
    visitor.waffle.update({"SITENAME": "Theirs"}, actor="bob")
    answer = visitor.api("PATCH", "/settings", {"SITENAME": "Mine"}, revision=0)
    assert (answer.status_code, answer.headers["ETag"]) == (409, '"1"')
    assert answer.json is not None
    assert (answer.json["expected"], answer.json["actual"]) == (0, 1)
    both = answer.json["settings"]["SITENAME"]
    assert (both["yours"], both["present"], both["changed"]["actor"]) == ("Mine", "Theirs", "bob")
    assert visitor.waffle.settings.SITENAME == "Theirs"


def test_a_refused_value_is_explained_in_pydantics_words(visitor: Visitor) -> None:
    body = {"MAX_FILESIZE": 0, "MAIL_PASSWORD": 3}
    answer = visitor.api("PATCH", "/settings", body, revision=0)
    assert answer.status_code == 422
    assert answer.json is not None
    found = {error["loc"][0]: error for error in answer.json["errors"]}
    assert found["MAX_FILESIZE"]["msg"] == "Input should be greater than or equal to 1"
    assert found["MAX_FILESIZE"]["input"] == 0
    assert "input" not in found["MAIL_PASSWORD"]
    assert visitor.api("PATCH", "/settings", {"NOPE": 1}, revision=0).status_code == 422


def test_patch_needs_the_revision_that_was_seen(visitor: Visitor) -> None:
    assert visitor.api("PATCH", "/settings", {"RATE": 1}).status_code == 428
    for wrong in ("x", '"1', "", '"1", "2"'):
        answer = visitor.api("PATCH", "/settings", {"RATE": 1}, headers={"If-Match": wrong})
        assert answer.status_code == 400
    for fine in ("0", 'W/"1"', "*"):
        body = {"RATE": 1 / (visitor.waffle.revision + 3)}
        answer = visitor.api("PATCH", "/settings", body, headers={"If-Match": fine})
        assert answer.status_code == 200


def test_rollback_makes_a_new_revision(visitor: Visitor) -> None:
    visitor.waffle.update({"SITENAME": "New"})
    answer = visitor.api("POST", "/rollback", {"revision": 0, "comment": "oops"})
    assert answer.status_code == 200
    assert visitor.waffle.settings.SITENAME == "Waffle"
    assert visitor.waffle.revision == 2
    assert visitor.waffle.history(limit=1)[0].comment == "rollback to revision 0: oops"
    assert visitor.api("POST", "/rollback", {"revision": 1}).status_code == 200
    assert visitor.waffle.history(limit=1)[0].comment == "rollback to revision 1"
    assert visitor.api("POST", "/rollback", {"revision": 9}).status_code == 404
    assert visitor.api("POST", "/rollback", {"revision": 0}, revision=1).status_code == 409
    assert visitor.api("POST", "/rollback", {"revision": -1}).status_code == 422


def test_history_comes_by_whole_revisions(visitor: Visitor) -> None:
    for number in (5, 6, 7):
        visitor.waffle.update({"MAX_FILESIZE": number, "MIN_FILESIZE": number - 5})
    answer = visitor.api("GET", "/history?limit=1")
    assert answer.json is not None
    assert [(c["revision"], c["name"], c["new"]) for c in answer.json["changes"]] == [
        (3, "MAX_FILESIZE", 7),
        (3, "MIN_FILESIZE", 2),
    ]
    only = visitor.api("GET", "/history?name=MAX_FILESIZE&before=3").json
    assert only is not None
    assert [c["revision"] for c in only["changes"]] == [2, 1]
    assert visitor.api("GET", "/history?limit=0").status_code == 422


def test_errors_are_json_too(visitor: Visitor) -> None:
    for method, path, status in (("GET", "/nowhere", 404), ("DELETE", "/settings", 405)):
        answer = visitor.api(method, path)
        assert answer.status_code == status
        assert answer.json is not None
        assert set(answer.json) == {"error", "message"}
    stranger = visitor.also("nobody").api("GET", "/settings")
    assert (stranger.status_code, stranger.json is not None) == (403, True)


def test_status_holds_every_process(visitor: Visitor) -> None:
    answer = visitor.api("GET", "/status").json
    assert answer is not None
    assert answer["revision"] == 0
    assert [process["role"] for process in answer["fleet"]["processes"]] == ["process"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "none"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://localhost.evil.example"}, 403),
        ({"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}, 403),
        ({"Cookie": "session=whatever"}, 403),
        ({"Cookie": "session=whatever", "X-CSRFToken": "guessed"}, 403),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": "multipart/form-data; boundary=x"}, 415),
        ({}, 200),
        ({"Origin": "http://localhost"}, 200),
        ({"Cookie": "session=whatever", "Origin": "http://localhost"}, 200),
        ({"Cookie": "session=whatever", "Sec-Fetch-Site": "same-origin"}, 200),
    ],
)
def test_no_other_site_can_make_a_browser_change_something(
    visitor: Visitor, headers: dict[str, str], status: int
) -> None:
    sent = {"Content-Type": "application/json", "If-Match": '"0"', "X-User": "alice", **headers}
    client = visitor.app.test_client(use_cookies=False)
    for method, path, body in (
        ("PATCH", "settings", '{"SITENAME": "New"}'),
        ("POST", "rollback", '{"revision": 0}'),
    ):
        if method == "POST":
            sent.pop("If-Match")
        answer = client.open(f"/waffle/api/{path}", method=method, data=body, headers=sent)
        assert answer.status_code == status
    assert visitor.waffle.settings.SITENAME != "New"  # not done, or rolled back again


def test_a_session_sends_the_token_of_its_pages(visitor: Visitor) -> None:
    token = visitor.get().form("/review")["csrf_token"]
    body = {"SITENAME": "New"}
    without = visitor.api("PATCH", "/settings", body, revision=0, fresh=False)
    assert without.status_code == 403
    with_it = visitor.api(
        "PATCH", "/settings", body, revision=0, fresh=False, headers={"X-CSRFToken": token}
    )
    assert with_it.status_code == 200


# -- bodies that are not meant well ---------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        '{"RATE": NaN}',
        '{"RATE": -Infinity}',
        '{"NOTE": "\\ud800"}',
        f'{{"NOTE": {"[" * 900}',
        "",
        "{",
    ],
)
def test_what_is_not_json_is_refused(visitor: Visitor, body: str) -> None:
    headers = {"Content-Type": "application/json", "If-Match": '"0"', "X-User": "alice"}
    answer = visitor.app.test_client().patch(f"{HERE}/api/settings", data=body, headers=headers)
    assert answer.status_code == 400
    assert answer.json is not None
    assert answer.json["errors"][0]["type"] == "json_invalid"


def test_no_answer_holds_what_json_lacks(make_visitor: MakeVisitor, database_url: str) -> None:
    """As another program may have written it to SQL."""
    visitor = make_visitor(WAFFLE_DATABASE_URI=database_url)
    visitor.waffle.update({"RATE": 0.25})
    execute(database_url, "UPDATE waffle_change SET new = 'NaN', old = '[Infinity]'")
    answer = visitor.api("GET", "/history")
    assert "NaN" not in answer.text
    assert "Infinity" not in answer.text
    assert answer.json is not None


@pytest.mark.parametrize("in_chunks", [False, True])
@pytest.mark.parametrize(("method", "path"), [("PATCH", "settings"), ("POST", "rollback")])
def test_a_large_body_is_not_read(
    visitor: Visitor,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    path: str,
    *,
    in_chunks: bool,
) -> None:
    monkeypatch.setattr(api, "MAX_BODY_BYTES", 1000)
    headers = {"Content-Type": "application/json", "If-Match": '"0"', "X-User": "alice"}
    for size, is_refused in ((1001, True), (999, False)):
        body = io.BytesIO(b" " * size)
        sent: dict[str, Any] = {"data": body.getvalue()}
        if in_chunks:
            sent = {"input_stream": body, "environ_overrides": {"wsgi.input_terminated": True}}
        answer = visitor.app.test_client().open(
            f"{HERE}/api/{path}", method=method, headers=headers, **sent
        )
        assert (answer.status_code == 413) is is_refused
        assert answer.json is not None
    assert visitor.client.post(f"{HERE}/review", data={"x": "y" * 1001}).status_code == 413


def test_a_form_of_too_many_fields_is_not_parsed(visitor: Visitor) -> None:
    form = visitor.get().form("/review")
    for _ in range(1000):
        form.add("SITENAME", "x")
    assert visitor.post("/review", form).status == 413


def test_a_flood_of_unknown_names_costs_little(
    visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names are suggested only to those who may change something, and for a few names."""
    asked: list[str] = []

    def suggest(name: str, _known: list[str]) -> str:
        asked.append(name)
        return " Did you mean another?"

    monkeypatch.setattr(api, "suggest", suggest)
    flood = {f"SITENAM{number}": 1 for number in range(4000)}
    reader = visitor.also("reader").api("PATCH", "/settings", flood, revision=0)
    assert (reader.status_code, asked) == (403, [])
    answer = visitor.api("PATCH", "/settings", {**flood, "A" * 1000: 1}, revision=0)
    assert answer.status_code == 422
    assert answer.json is not None
    assert len(answer.json["errors"]) == 4001
    assert 0 < len(asked) <= 5


def test_options_names_the_methods_that_a_path_has(visitor: Visitor) -> None:
    for path, methods in (
        ("/api/settings", {"GET", "HEAD", "PATCH", "OPTIONS"}),
        ("/api/rollback", {"POST", "OPTIONS"}),
        ("/review", {"POST", "OPTIONS"}),
    ):
        answer = visitor.client.options(f"{HERE}{path}")
        assert (answer.status_code, answer.allow) == (200, methods)
        refused = visitor.client.delete(f"{HERE}{path}")
        assert (refused.status_code, refused.allow) == (405, methods)
