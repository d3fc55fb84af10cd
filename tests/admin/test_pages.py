"""Seeing and changing settings by pages, without JavaScript."""

from __future__ import annotations

import datetime as dt
import re
import time
from decimal import Decimal

import pydantic
import pytest

from tests.admin.conftest import MakeVisitor
from tests.admin.visitor import Page, Visitor
from tests.apps.admin_pages import KEY_DEFAULT, SECRET_DEFAULT, Level
from uwsgi_waffle import WaffleSettings


def test_each_type_has_the_input_that_fits(visitor: Visitor) -> None:
    page = visitor.get()
    assert page.status == 200
    fitting = {
        "SITENAME": "text",
        "CLOSED": "checkbox",
        "MAX_FILESIZE": "number",
        "RATE": "number",
        "PRICE": "number",
        "MAIL_PASSWORD": "password",
        "LAUNCH": "datetime-local",
        "MEETING": "text",  # browsers have no input for a zone
        "DAY_OFF": "date",
        "NIGHTLY": "time",
    }
    assert {name: page.types[name] for name in fitting} == fitting
    assert '<select id="s-THEME"' in page.html
    for name in ("NOTE", "ALLOWED", "MAIL_SERVER"):
        assert f'<textarea id="s-{name}"' in page.html
    assert 'min="1" step="1"' in page.html  # the bounds of MAX_FILESIZE


def test_a_form_sent_as_it_stands_changes_nothing(visitor: Visitor) -> None:
    page = visitor.review()
    assert (page.status, page.location) == (303, "/waffle/")
    assert "Nothing to save" in visitor.get().text
    assert visitor.waffle.revision == 0


def test_several_changes_are_reviewed_and_saved_as_one_revision(visitor: Visitor) -> None:
    review = visitor.review(
        SITENAME="New",
        CLOSED="true",
        LEVEL='"high"',
        MAX_FILESIZE="5",
        RATE="0.25",
        PRICE="10.00",
        ALLOWED='["gif"]',
        MAIL_FROM="a@b.example",
        MAIL_SERVER='{"host": "mx", "port": 26}',
        DAY_OFF="2026-12-24",
        NIGHTLY="09:15",
        NOTE="three\r\nfour",
    )
    assert review.status == 200
    assert visitor.waffle.revision == 0, "a review saves nothing"
    for text in ("Waffle", "New", "1000", "PRICE 9.99 10 ", "2026-12-24"):
        assert text in review.text
    done = visitor.save(review, comment="launch")
    assert (done.status, done.location) == (303, "/waffle/revision/1")
    settings = visitor.waffle.settings
    assert settings.SITENAME == "New"
    assert settings.CLOSED is True
    assert settings.LEVEL is Level.HIGH
    assert Decimal("10.00") == settings.PRICE
    assert settings.ALLOWED == ("gif",)
    assert settings.MAIL_SERVER.port == 26
    assert dt.date(2026, 12, 24) == settings.DAY_OFF
    assert dt.time(9, 15) == settings.NIGHTLY
    assert settings.NOTE == "three\nfour"
    history = visitor.waffle.history()
    assert {change.revision for change in history} == {1}
    assert {(change.actor, change.comment, change.source) for change in history} == {
        ("alice", "launch", "page")
    }
    assert (
        "1 process" in visitor.get("/revision/1").text
        or "next request" in visitor.get("/revision/1").text
    )


def test_an_error_stands_at_its_field_in_pydantics_words(visitor: Visitor) -> None:
    page = visitor.review(MAX_FILESIZE="0", ALLOWED='["png",\n jpg]', SITENAME="Kept")
    assert page.status == 422
    error = page.html.split('id="s-MAX_FILESIZE-error">')[1].split("</ul>")[0]
    assert "Input should be greater than or equal to 1" in error
    error = page.html.split('id="s-ALLOWED-error">')[1].split("</ul>")[0]
    assert "at line 2 column 2" in error
    assert page.form("/review")["SITENAME"] == "Kept", "what was typed is not lost"
    assert visitor.waffle.revision == 0


def test_an_error_of_the_whole_stands_at_the_top(visitor: Visitor) -> None:
    page = visitor.review(MIN_FILESIZE="9000")
    assert page.status == 422
    top = page.html.split('class="alert"')[1].split("</div>")[0]
    assert "the smallest upload is larger than the largest" in top


def test_going_back_to_a_default_and_changing_another_setting_is_one_revision(
    visitor: Visitor,
) -> None:
    visitor.change(SITENAME="New", THEME='"berry"')
    form = visitor.get().form("/review")
    form["MAX_FILESIZE"] = "7"
    form.add("reset", "SITENAME")
    visitor.save(visitor.post("/review", form))
    assert visitor.waffle.revision == 2
    assert (visitor.waffle.settings.SITENAME, visitor.waffle.settings.MAX_FILESIZE) == ("Waffle", 7)
    assert {(c.name, c.is_default) for c in visitor.waffle.history(limit=2)} == {
        ("SITENAME", True),
        ("MAX_FILESIZE", False),
    }


def test_a_secret_is_changed_by_typing_it_twice_and_never_shown(visitor: Visitor) -> None:
    page = visitor.review(MAIL_PASSWORD="open sesame")  # noqa: S106  # it opens nothing
    assert page.status == 200
    assert visitor.save(page).status == 422, "it was not typed again"
    assert visitor.save(page, MAIL_PASSWORD="open barley").status == 422  # noqa: S106  # (as above)
    assert visitor.save(page, MAIL_PASSWORD="open sesame").status == 303  # noqa: S106  # (as above)
    assert visitor.waffle.settings.MAIL_PASSWORD.get_secret_value() == "open sesame"


def test_settings_are_grouped_and_searched_without_scripts(visitor: Visitor) -> None:
    page = visitor.get()
    for group in ("General", "Uploads", "Mail"):
        assert f">{group}</h2>" in page.html
    found = visitor.get("/?q=upload+bytes")
    assert is_hidden(found, "SITENAME")
    assert not is_hidden(found, "MAX_FILESIZE")
    assert 'id="nothing-found">No setting matches' in visitor.get("/?q=nowhere").html


def is_hidden(page: Page, name: str) -> bool:
    """Return whether the row of a setting is hidden."""
    row = re.search(rf'<div( hidden)?[^>]* data-search="{name.lower()} ', page.html)
    assert row is not None
    return row[1] is not None


def test_a_refusal_keeps_the_search_and_leads_to_what_was_edited(visitor: Visitor) -> None:
    found = visitor.get("/?q=upload+bytes")
    for changes in ({"MIN_FILESIZE": "5000"}, {"SITENAME": "", "MIN_FILESIZE": "-1"}):
        page = visitor.review(found, **changes)
        assert page.status == 422
        assert page.form("/review")["q"] == "upload bytes"
        assert is_hidden(page, "THEME")
        for name in changes:
            assert f'href="#s-{name}"' in page.html
            assert not is_hidden(page, name)
    review = visitor.review(found, MIN_FILESIZE="5")
    back = visitor.post("/edit", review.form("/save"))
    assert is_hidden(back, "THEME")


def test_nothing_is_shown_of_a_secret_anywhere(visitor: Visitor) -> None:
    typed = ["hush-hush-1", "hush-hush-2", "hush-hush-3", SECRET_DEFAULT, KEY_DEFAULT]
    pages: list[Page] = [visitor.get()]
    for secret in typed[:2]:
        review = visitor.review(MAIL_PASSWORD=secret)
        pages += [review, visitor.save(review), visitor.save(review, MAIL_PASSWORD="other")]  # noqa: S106  # it opens nothing
        pages.append(visitor.save(review, MAIL_PASSWORD=secret))
    open_page = visitor.get()
    visitor.waffle.update({"MAIL_PASSWORD": typed[2]})
    conflict = visitor.review(open_page, MAIL_PASSWORD=typed[0], SITENAME="X")
    assert conflict.status == 409
    pages += [conflict, visitor.save(conflict), visitor.review(MAIL_PASSWORD=typed[0], RATE="9")]
    paths = ("/", "/history", "/compare?a=0", "/rollback/1", "/revision/2", "/status", "/edit")
    pages += [visitor.get(path) for path in paths]
    bodies = [page.html for page in pages]
    bodies += [
        visitor.api("GET", path).get_data(as_text=True)
        for path in ("/settings", "/history", "/status", "/openapi.json")
    ]
    wrong = {"MAIL_PASSWORD": typed[0], "SITENAME": 3}
    bodies.append(visitor.api("PATCH", "/settings", wrong, revision=3).get_data(as_text=True))
    wrong = {"MAIL_PASSWORD": typed[0]}
    bodies.append(visitor.api("PATCH", "/settings", wrong, revision=1).get_data(as_text=True))
    wrong = {"MAIL_PASSWORD": typed[1]}
    bodies.append(visitor.api("PATCH", "/settings", wrong, revision=3).get_data(as_text=True))
    for body in bodies:
        assert not [secret for secret in typed if secret in body]


def test_five_hundred_settings_are_one_page_and_one_revision(make_visitor: MakeVisitor) -> None:
    """The figure is printed, not asserted, as the machine may be busy."""
    fields = {
        f"{group}_{number:03}": (int, pydantic.Field(number, description=f"Number {number}"))
        for number in range(500)
        for group in [("ALPHA", "BETA", "GAMMA", "DELTA")[number % 4]]
    }
    model = pydantic.create_model("Many", __base__=WaffleSettings, **fields)  # type: ignore[call-overload]  # as pydantic's own documentation has it
    visitor = make_visitor(model)
    visitor.waffle.update(dict.fromkeys(fields, 7))
    visitor.get()
    began = time.perf_counter()
    page = visitor.client.get("/waffle/")
    print(f"500 settings: {(time.perf_counter() - began) * 1000:.0f} ms")  # noqa: T201  # for the reader
    assert page.status_code == 200
    review = visitor.review(None, **dict.fromkeys(fields, "8"))
    assert visitor.save(review).location == "/waffle/revision/2"
    assert set(visitor.waffle.settings.model_dump().values()) == {8}


def test_numbers_too_large_for_a_database_are_not_errors(
    database_url: str, make_visitor: MakeVisitor
) -> None:
    """On each database: they differ about large numbers and NUL."""
    visitor = make_visitor(WAFFLE_DATABASE_URI=database_url)
    assert visitor.change(SITENAME="New").status == 303
    large = 10**30
    assert visitor.get(f"/history?before={large}").text.count("Revision 1") == 1
    assert visitor.get("/history?before=-5").status == 200
    assert visitor.get("/history?name=%00").status == 200
    assert visitor.get(f"/compare?a={large}&b=-1").status == 200
    assert visitor.get(f"/revision/{large}").status == 404
    assert visitor.get(f"/rollback/{large}").status == 404
    assert visitor.get(f"/revision/{'9' * 5000}").status == 404
    review = visitor.review(SITENAME="Newer").form("/save")
    review.add("ask", f"SITENAME:{'9' * 5000}")
    assert visitor.post("/save", review).status == 303
    assert visitor.api("GET", f"/history?before={large}").status_code == 422
    assert visitor.api("GET", "/history?name=%00").status_code == 422
    assert visitor.api("POST", "/rollback", {"revision": large}).status_code == 422


@pytest.mark.parametrize("path", ["/", "/history", "/status", "/nowhere", "/api/settings"])
def test_pages_work_or_explain_where_the_database_is_away(
    make_visitor: MakeVisitor, path: str, tmp_path: object
) -> None:
    visitor = make_visitor(WAFFLE_DATABASE_URI=f"sqlite:///{tmp_path}/missing/waffle.db")
    page = visitor.get(path)
    assert page.status == {"/": 200, "/status": 200, "/nowhere": 404}.get(path, 503)
    if path in {"/", "/history"}:
        assert "unable to open database file" in page.text


class Distinguishing(WaffleSettings):
    """A setting whose type distinguishes what Python takes for equal."""

    EITHER: bool | int = 1


def test_what_a_type_distinguishes_can_be_changed(make_visitor: MakeVisitor) -> None:
    visitor = make_visitor(Distinguishing)
    assert visitor.change(EITHER="true").status == 303
    assert visitor.waffle.settings.EITHER is True
    assert "No setting differs" not in visitor.get("/compare?a=0&b=1").text
    answer = visitor.api("GET", "/settings")
    assert answer.json is not None
    assert answer.json["declarations"]["EITHER"]["is_default"] is False
    assert visitor.change(EITHER="1").status == 303
    assert visitor.waffle.settings.EITHER is not True
