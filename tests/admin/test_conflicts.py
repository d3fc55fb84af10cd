"""Changes by pages, while others change settings too."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.admin.visitor import Visitor


@pytest.mark.parametrize(("choice", "kept"), [("mine", "Mine"), ("theirs", "Theirs")])
def test_a_change_of_the_same_setting_is_shown_and_asked_about(
    visitor: Visitor, choice: str, kept: str
) -> None:
    open_page = visitor.get()
    visitor.waffle.update({"SITENAME": "Theirs"}, actor="bob", comment="first")
    page = visitor.review(open_page, SITENAME="Mine", RATE="0.25")
    assert page.status == 409
    for text in ("Theirs", "Mine", "bob", "first"):
        assert text in page.text
    unanswered = visitor.save(page)
    assert unanswered.status == 409, "without a choice"
    assert visitor.waffle.settings.SITENAME == "Theirs"
    assert visitor.save(page, choose__SITENAME=choice).status == 303
    assert (kept, 0.25) == (visitor.waffle.settings.SITENAME, visitor.waffle.settings.RATE)


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


def test_a_rollback_is_shown_again_where_another_change_came_first(visitor: Visitor) -> None:
    visitor.change(SITENAME="New")
    page = visitor.get("/rollback/0")
    visitor.waffle.update({"RATE": 0.75})
    again = visitor.post("/rollback/0", page.form("/rollback/0"))
    assert again.status == 409
    assert "0.75" in again.text
    assert visitor.waffle.revision == 2
    assert visitor.get("/rollback/99").status == 404
