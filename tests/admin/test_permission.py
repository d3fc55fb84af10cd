"""Who may open the pages, see and change what, and that no other site can use their browser."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from typing import Any

import pytest
from flask import Blueprint

from tests.admin.conftest import MakeVisitor
from tests.admin.visitor import HERE, Visitor
from tests.conftest import Apps
from uwsgi_waffle import ConfigError, Permission, WaffleSettings

PATHS = (
    "",
    "/",
    "/history",
    "/compare",
    "/rollback/0",
    "/revision/0",
    "/revision/0/processes",
    "/status",
    "/nowhere",
    "/api/settings",
    "/api/history",
    "/api/status",
    "/api/openapi.json",
    "/api/nowhere",
)


def test_there_are_no_pages_without_authorize(apps: Apps) -> None:
    _, waffle = apps(WaffleSettings)
    with pytest.raises(TypeError):
        waffle.admin()  # type: ignore[call-arg]  # that is the point
    with pytest.raises(ConfigError, match="authorize"):
        waffle.admin(authorize=None)  # type: ignore[arg-type]  # (as above)


@pytest.mark.parametrize("path", PATHS)
def test_without_permission_there_is_403_and_nothing_else(visitor: Visitor, path: str) -> None:
    page = visitor.also("nobody").get(path)
    assert page.status == 403
    assert "SITENAME" not in page.html
    for method in ("POST", "PATCH", "PUT", "DELETE"):
        answer = visitor.client.open(HERE + path, method=method, headers={"X-User": "nobody"})
        assert answer.status_code in {403, 405}


@pytest.mark.parametrize("path", [*PATHS, "/static/waffle.css"])
def test_every_answer_carries_the_strict_content_security_policy(
    visitor: Visitor, path: str
) -> None:
    for name in ("alice", "nobody"):
        for method in ("GET", "POST", "DELETE"):
            answer = visitor.client.open(HERE + path, method=method, headers={"X-User": name})
            answer.close()
            if method != "GET" and answer.status_code == 405 and path.endswith((".css", "nowhere")):
                continue  # Werkzeug's own, which holds nothing of the application
            policy = answer.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert "no-store" in answer.headers["Cache-Control"] or path.startswith("/static")


@pytest.mark.parametrize("answer", [3, ["alice"], object()])
def test_an_authorize_of_a_wrong_type_is_an_error(apps: Apps, answer: object) -> None:
    app, waffle = apps(WaffleSettings, TESTING=True)
    wrong: Any = lambda _request: answer  # noqa: E731  # typed as anything, on purpose
    app.register_blueprint(waffle.admin(authorize=wrong), url_prefix="/waffle")
    with pytest.raises(TypeError, match="name, a Permission or None"):
        app.test_client().get("/waffle/")


def test_a_form_without_its_token_changes_nothing(visitor: Visitor) -> None:
    """Nor does one with another person's, also where the application has turned tokens off."""
    visitor.app.config["WTF_CSRF_ENABLED"] = False
    review = visitor.review(SITENAME="New")
    others = visitor.also("bob").get().form("/review")["csrf_token"]
    for token in ("", "nonsense", others):
        refused = visitor.save(review, csrf_token=token)
        assert refused.status == 400
        assert refused.form("/save")["SITENAME"] == "New", "what was typed is not lost"
        assert visitor.review(SITENAME="New", csrf_token=token).status == 400
    assert visitor.waffle.revision == 0
    assert visitor.save(review).status == 303
    rollback = visitor.get("/rollback/0").form("/rollback/0")
    for token in ("", "nonsense", others):
        assert visitor.post("/rollback/0", rollback, csrf_token=token).status == 400
    assert visitor.waffle.revision == 1


def test_a_form_that_was_open_for_too_long_can_be_sent_again(
    visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    review = visitor.review(SITENAME="New")
    monkeypatch.setitem(visitor.app.config, "WTF_CSRF_TIME_LIMIT", -1)
    expired = visitor.save(review)
    assert expired.status == 400
    assert "open for too long" in expired.text
    monkeypatch.undo()
    assert visitor.save(expired).status == 303


def test_pages_without_a_secret_key_name_what_to_set(make_visitor: MakeVisitor) -> None:
    visitor = make_visitor(SECRET_KEY=None)
    page = visitor.get()
    assert page.status == 500
    assert "SECRET_KEY" in page.text
    assert visitor.api("GET", "/settings").status_code == 200, "JSON needs no forms"


def test_without_permission_to_change_pages_have_no_inputs(visitor: Visitor) -> None:
    visitor.change(SITENAME="New")
    reader = visitor.also("reader")
    page = reader.get()
    assert "you have no permission to change settings" in page.text
    assert "New" in page.text
    assert page.types.keys() <= {"q", "csrf_token", "revision"}
    assert "Roll back to this" not in reader.get("/history").text
    form = visitor.get().form("/review")
    form["csrf_token"] = page.form("/review")["csrf_token"]
    assert reader.post("/review", form, SITENAME="Mine").status == 403
    assert reader.post("/save", form, SITENAME="Mine").status == 403
    assert visitor.waffle.settings.SITENAME == "New"
    rollback = reader.get("/rollback/0")
    assert "no permission to change" in rollback.text
    assert reader.post("/rollback/0", form).status == 403
    patch = reader.api("PATCH", "/settings", {"SITENAME": "x"}, revision=1)
    assert patch.status_code == 403
    assert reader.api("POST", "/rollback", {"revision": 0}).status_code == 403


def test_who_may_see_some_settings_sees_and_changes_no_others(visitor: Visitor) -> None:
    visitor.change(SITENAME="New", RATE="0.123", THEME='"berry"')
    partial = visitor.also("partial")
    paths = ("/", "/history", "/compare?a=0", "/rollback/0", "/revision/1", "/status")
    bodies = [partial.get(path).html for path in paths]
    bodies += [
        partial.api("GET", path).get_data(as_text=True)
        for path in ("/settings", "/history", "/status", "/openapi.json")
    ]
    for body in bodies:
        assert "RATE" not in body
        assert "0.123" not in body
        assert "MAX_FILESIZE" not in body
    assert "SITENAME" in bodies[0]
    assert partial.get("/history?name=RATE").status == 403
    assert partial.change(SITENAME="Mine").status == 303
    unseen = partial.api("PATCH", "/settings", {"RATE": 1}, revision=2)
    unknown = partial.api("PATCH", "/settings", {"NONE": 1}, revision=2)
    assert (unseen.status_code, unknown.status_code) == (422, 422), "hidden or missing is the same"
    assert partial.api("PATCH", "/settings", {"THEME": "syrup"}, revision=2).status_code == 403
    assert partial.api("POST", "/rollback", {"revision": 0}).status_code == 403
    page = partial.get()
    form = page.form("/review")
    assert partial.post("/review", form, THEME='"syrup"').status == 403
    assert visitor.waffle.settings.RATE == 0.123
    assert visitor.waffle.revision == 2


def test_permission_may_edit_only_what_may_be_seen() -> None:
    assert Permission("x").may_edit("A")
    assert not Permission("x", see=["B"]).may_edit("A")
    assert not Permission("x", see=["A"], edit=["B"]).may_edit("A")
    assert Permission("x", edit=["A"]).may_see("B")


def test_a_text_in_place_of_names_is_refused() -> None:
    """It would match each of its pieces: ``A`` in ``A_AND_B``."""
    for key in ("see", "edit"):
        wrong: dict[str, Any] = {key: "A_AND_B"}
        with pytest.raises(TypeError, match=r"give a collection of names: \['A_AND_B'\]"):
            Permission("x", **wrong)


def test_without_flask_wtf_the_error_names_what_to_install() -> None:
    """In a process of its own, where Flask-WTF cannot be imported; all else works there."""
    assert importlib.util.find_spec("flask_wtf") is not None
    code = (
        "import sys; sys.modules['flask_wtf'] = None\n"
        "from uwsgi_waffle import ConfigError, Permission, WaffleConf, WaffleSettings\n"
        "try: WaffleConf(settings=WaffleSettings).admin(authorize=print)\n"
        "except ConfigError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install uwsgi-waffle[admin]" in done.stdout


def test_pages_work_under_csrf_protection_of_the_whole_application(visitor: Visitor) -> None:
    from flask_wtf import CSRFProtect  # type: ignore[import-untyped]

    CSRFProtect(visitor.app)
    assert visitor.change(SITENAME="New").status == 303


def test_another_host_name_is_refused_where_hosts_are_named(apps: Apps) -> None:
    """By DNS rebinding a foreign page has the origin of the host name that it forges."""
    app, waffle = apps(WaffleSettings, SECRET_KEY="for tests only")  # noqa: S106  # it opens nothing
    pages = waffle.admin(authorize=lambda _: "alice", trusted_hosts=["localhost", ".example.org"])
    app.register_blueprint(pages, url_prefix="/waffle")
    for host, is_trusted in (
        ("localhost", True),
        ("localhost:8080", True),
        ("a.example.org", True),
        ("rebound.evil.example", False),
        ("localhost.evil.example", False),
    ):
        for path in ("/", "/api/settings"):
            answer = app.test_client().get(HERE + path, headers={"Host": host})
            assert answer.status_code == (200 if is_trusted else 400)
        body = {"comment": "x"}
        sent = {"Host": host, "Origin": f"http://{host}", "If-Match": "*"}
        answer = app.test_client().patch(f"{HERE}/api/settings", json=body, headers=sent)
        assert answer.status_code == (200 if is_trusted else 400)
    with pytest.raises(ConfigError, match="list of hosts"):
        waffle.admin(authorize=print, trusted_hosts="localhost")


def test_pages_are_pages_within_blueprints_of_any_name(apps: Apps) -> None:
    app, waffle = apps(WaffleSettings)
    inner, outer = Blueprint("api_v1", __name__), Blueprint("outer", __name__)
    inner.register_blueprint(waffle.admin(authorize=lambda _: "alice"), url_prefix="/waffle")
    outer.register_blueprint(inner)
    app.register_blueprint(outer)
    answer = app.test_client().get(f"{HERE}/")
    assert (answer.status_code, answer.mimetype) == (500, "text/html")
    assert "SECRET_KEY is not set" in answer.text
    assert app.test_client().get(f"{HERE}/api/nowhere").is_json
    app.secret_key = "for tests only"  # noqa: S105  # it opens nothing
    assert app.test_client().get(f"{HERE}/").status_code == 200


def test_pages_can_be_mounted_anywhere(make_visitor: MakeVisitor) -> None:
    visitor = make_visitor()
    answer = visitor.client.get("/waffle/", environ_overrides={"SCRIPT_NAME": "/deep"})
    assert 'action="/deep/waffle/review"' in answer.get_data(as_text=True)
