"""The history by pages, and going back to a revision."""

from __future__ import annotations

import pydantic

from tests.admin.conftest import MakeVisitor
from tests.admin.visitor import Visitor
from uwsgi_waffle import WaffleSettings


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
