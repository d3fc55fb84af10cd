"""Seeing and changing settings by pages, without JavaScript."""

from __future__ import annotations

import datetime as dt
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
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


def test_a_change_of_the_same_setting_is_shown_and_asked_about(visitor: Visitor) -> None:
    open_page = visitor.get()
    visitor.waffle.update({"SITENAME": "Theirs"}, actor="bob", comment="first")
    page = visitor.review(open_page, SITENAME="Mine", RATE="0.25")
    assert page.status == 409
    for text in ("Theirs", "Mine", "bob", "first"):
        assert text in page.text
    unanswered = visitor.save(page)
    assert unanswered.status == 409, "without a choice"
    assert visitor.waffle.settings.SITENAME == "Theirs"
    done = visitor.save(page, choose__SITENAME="mine")
    assert done.status == 303
    assert (visitor.waffle.settings.SITENAME, visitor.waffle.settings.RATE) == ("Mine", 0.25)


def test_the_other_value_stays_where_it_is_chosen(visitor: Visitor) -> None:
    open_page = visitor.get()
    visitor.waffle.update({"SITENAME": "Theirs"}, actor="bob")
    page = visitor.review(open_page, SITENAME="Mine", RATE="0.25")
    assert visitor.save(page, choose__SITENAME="theirs").status == 303
    assert (visitor.waffle.settings.SITENAME, visitor.waffle.settings.RATE) == ("Theirs", 0.25)


def test_a_change_between_review_and_save_is_a_conflict_too(visitor: Visitor) -> None:
    review = visitor.review(SITENAME="Mine")
    visitor.waffle.update({"SITENAME": "Theirs"}, actor="bob")
    assert visitor.save(review).status == 409
    assert visitor.waffle.settings.SITENAME == "Theirs"


def test_a_change_of_another_setting_is_no_conflict(visitor: Visitor) -> None:
    visitor.waffle.update({"SITENAME": "Long ago"}, actor="bob")
    open_page = visitor.get()
    visitor.waffle.update({"RATE": 0.75}, actor="bob")
    review = visitor.review(open_page, SITENAME="Mine")
    visitor.waffle.update({"MAX_FILESIZE": 77}, actor="bob")
    assert review.status == 200
    assert visitor.save(review).status == 303
    settings = visitor.waffle.settings
    assert (settings.SITENAME, settings.RATE, settings.MAX_FILESIZE) == ("Mine", 0.75, 77)


def test_people_who_save_different_settings_at_the_same_moment_all_succeed(
    visitor: Visitor,
) -> None:
    """All from the same revision; each save is one revision."""
    texts = {
        "SITENAME": "One",
        "THEME": '"berry"',
        "NOTE": "three",
        "MIN_FILESIZE": "7",
        "RATE": "0.25",
        "PRICE": "5",
        "MAIL_FROM": "a@b.example",
        "NIGHTLY": "09:15",
    }
    people = [visitor.also(f"person {number}") for number in range(len(texts))]
    reviews = [
        person.review(None, **{name: text})
        for person, (name, text) in zip(people, texts.items(), strict=True)
    ]
    together = threading.Barrier(len(people))

    def save(number: int) -> int:
        together.wait(10)
        return people[number].save(reviews[number]).status

    with ThreadPoolExecutor(len(people)) as pool:
        assert set(pool.map(save, range(len(people)))) == {303}
    assert visitor.waffle.revision == len(texts)
    assert {change.name for change in visitor.waffle.history()} == set(texts)


def test_a_secret_is_changed_by_typing_it_twice_and_never_shown(visitor: Visitor) -> None:
    page = visitor.review(MAIL_PASSWORD="open sesame")  # noqa: S106  # it opens nothing
    assert page.status == 200
    assert visitor.save(page).status == 422, "it was not typed again"
    assert visitor.save(page, MAIL_PASSWORD="open barley").status == 422  # noqa: S106  # (as above)
    assert visitor.save(page, MAIL_PASSWORD="open sesame").status == 303  # noqa: S106  # (as above)
    assert visitor.waffle.settings.MAIL_PASSWORD.get_secret_value() == "open sesame"


def test_a_rollback_is_reviewed_and_makes_a_new_revision(visitor: Visitor) -> None:
    visitor.change(SITENAME="New")
    page = visitor.get("/rollback/0")
    assert "Waffle" in page.text
    assert "New" in page.text
    done = visitor.post("/rollback/0", page.form("/rollback/0"), comment="oops")
    assert (done.status, done.location) == (303, "/waffle/revision/2")
    assert visitor.waffle.settings.SITENAME == "Waffle"
    assert visitor.waffle.history(limit=1)[0].source == "page"
    visitor.post("/rollback/1", visitor.get("/rollback/1").form("/rollback/1"))
    assert visitor.waffle.history(limit=1)[0].comment == "rollback to revision 1"


def test_a_rollback_is_shown_again_where_another_change_came_first(visitor: Visitor) -> None:
    visitor.change(SITENAME="New")
    page = visitor.get("/rollback/0")
    visitor.waffle.update({"RATE": 0.75})
    again = visitor.post("/rollback/0", page.form("/rollback/0"))
    assert again.status == 409
    assert "0.75" in again.text
    assert visitor.waffle.revision == 2
    assert visitor.get("/rollback/99").status == 404


def test_a_rollback_warns_of_stored_values_that_this_release_cannot_use(
    make_visitor: MakeVisitor,
) -> None:
    visitor = make_visitor()
    visitor.waffle.update({"MIN_FILESIZE": 9})
    newer = pydantic.create_model("Newer", __base__=WaffleSettings, MIN_FILESIZE=(str, ""))
    make_visitor(newer).waffle.update({"MIN_FILESIZE": "five"})
    page = visitor.get("/rollback/1")
    assert page.status == 200
    assert "The stored value of MIN_FILESIZE cannot be used" in page.text
    assert "MIN_FILESIZE five 9" in page.text
    assert visitor.post("/rollback/1", page.form("/rollback/1")).status == 303
    assert visitor.waffle.history(limit=1)[0].old == "five"


def test_history_can_be_filtered_compared_and_paged(visitor: Visitor) -> None:
    for number in range(1, 24):
        visitor.waffle.update({"MAX_FILESIZE": number, "MIN_FILESIZE": 0}, comment=f"no. {number}")
    visitor.waffle.update({"SITENAME": "New"}, actor="bob")
    first = visitor.get("/history")
    assert "no. 5" in first.text
    assert "no. 4 " not in first.text
    older = visitor.get("/history?before=5")
    assert "no. 4" in older.text
    only = visitor.get("/history?name=SITENAME")
    assert "bob" in only.text
    assert "no. 23" not in only.text
    both = visitor.get("/compare?a=3&b=24")
    assert "SITENAME" in both.text
    assert "23" in both.text
    assert visitor.get("/compare?a=3&b=99").text.count("There is no revision 99") == 1


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


def test_a_rollback_with_a_reason_is_marked_as_one(visitor: Visitor) -> None:
    visitor.change(SITENAME="New")
    form = visitor.get("/rollback/0").form("/rollback/0")
    assert visitor.post("/rollback/0", form, comment="oops").status == 303
    page = visitor.get("/history")
    assert page.html.count('<span class="tag">rollback</span>') == 1
    assert "rollback to revision 0: oops" in page.text
    form = visitor.get("/rollback/1").form("/rollback/1")
    assert visitor.post("/rollback/1", form, comment="x" * 10_000).status == 303


def test_an_older_revision_shows_no_processes_of_a_later_one(visitor: Visitor) -> None:
    visitor.change(SITENAME="New")
    visitor.change(SITENAME="Newer")
    older, current = visitor.get("/revision/1"), visitor.get("/revision/2")
    assert "Revision 2 is the current one" in older.text
    assert 'id="fleet"' not in older.html
    assert 'id="fleet"' in current.html


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
