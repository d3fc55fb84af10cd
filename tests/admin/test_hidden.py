"""What a person may not see is shown by nothing: no review, refusal, document or problem."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, Field, model_validator
from typing_extensions import Self

from tests.admin.conftest import MakeVisitor
from tests.admin.visitor import Visitor
from tests.conftest import execute, state_of
from uwsgi_waffle import WaffleSettings

#: What stands in the values, names and definitions that `partial` may not see.
HIDDEN = ("COVERT", "covert", "4711", "Cave", "treasure")


class Cave(BaseModel):
    """A type that only a hidden setting uses."""

    treasure: int = 0


class Settings(WaffleSettings):
    """``partial`` sees SITENAME and THEME, and may change SITENAME."""

    SITENAME: str = Field("Waffle", description="Name shown in the header")
    THEME: str = "batter"
    COVERT_LIMIT: int = Field(1, le=4711)
    COVERT_COPY: str = "covert: Waffle"
    COVERT_CAVE: Cave = Cave()

    @model_validator(mode="before")
    @classmethod
    def _derive(cls, given: Any) -> Any:
        if isinstance(given, dict) and "SITENAME" in given:
            given = {**given, "COVERT_COPY": f"covert: {given['SITENAME']}"}
            if given["SITENAME"] == "too much":
                given["COVERT_LIMIT"] = 5000
        return given

    @model_validator(mode="after")
    def _check_whole(self) -> Self:
        if self.SITENAME == "impossible":
            message = f"does not go with COVERT_LIMIT = {self.COVERT_LIMIT}"
            raise ValueError(message)
        return self


@pytest.fixture
def partial(make_visitor: MakeVisitor) -> Visitor:
    """Visit as a person who may see some of the settings."""
    return make_visitor(Settings).also("partial")


def assert_nothing_hidden(text: str) -> None:
    found = [word for word in HIDDEN if word in text]
    assert not found, text


def test_a_review_shows_no_derived_value_of_a_hidden_setting(partial: Visitor) -> None:
    review = partial.review(SITENAME="New")
    assert_nothing_hidden(review.html)
    assert "1 change on top" in review.text
    done = partial.save(review)
    assert done.status == 303
    assert_nothing_hidden(partial.get(done.location.removeprefix("/waffle")).html)
    assert partial.waffle.settings.COVERT_COPY == "covert: New"


@pytest.mark.parametrize("name", ["too much", "impossible"])
def test_a_refusal_about_a_hidden_setting_says_that_it_is_one(partial: Visitor, name: str) -> None:
    page = partial.review(SITENAME=name)
    assert page.status == 422
    assert "you have no permission to see" in page.text
    assert page.form("/review")["SITENAME"] == name
    answer = partial.api("PATCH", "/settings", {"SITENAME": name}, revision=0)
    assert answer.status_code == 422
    assert "you have no permission to see" in answer.text
    assert answer.json is not None
    assert answer.json["errors"][0]["loc"] == []
    for text in (page.html, answer.text):
        assert_nothing_hidden(text)


def test_a_refusal_shows_all_to_who_may_see_all(partial: Visitor) -> None:
    alice = partial.also("alice")
    assert "COVERT_LIMIT = 1" in alice.review(SITENAME="impossible").text
    assert "less than or equal to 4711" in alice.review(SITENAME="too much").text


def test_the_document_defines_only_what_visible_settings_use(partial: Visitor) -> None:
    assert_nothing_hidden(partial.api("GET", "/openapi.json").text)
    assert "Cave" in partial.also("alice").api("GET", "/openapi.json").text


def test_a_rollback_is_refused_before_its_values_are_looked_at(partial: Visitor) -> None:
    partial.waffle.update({"COVERT_LIMIT": 7})
    partial.waffle.update({"COVERT_LIMIT": 8})
    url = str(partial.app.config["WAFFLE_DATABASE_URI"])
    execute(url, "UPDATE waffle_change SET new = '9000' WHERE revision = 1")
    assert partial.also("alice").api("POST", "/rollback", {"revision": 1}).status_code == 422
    answer = partial.api("POST", "/rollback", {"revision": 1})
    assert answer.status_code == 403
    assert_nothing_hidden(answer.text)
    page = partial.get("/rollback/1")
    assert page.status == 200
    assert "settings that you have no permission to change" in page.text
    assert_nothing_hidden(page.html)


def test_status_names_no_undeclared_setting_that_may_not_be_seen(partial: Visitor) -> None:
    partial.waffle.update({"COVERT_LIMIT": 7, "SITENAME": "New"})
    url = str(partial.app.config["WAFFLE_DATABASE_URI"])
    execute(url, "UPDATE waffle_setting SET name = 'COVERT_ONCE' WHERE name = 'COVERT_LIMIT'")
    execute(url, "UPDATE waffle_namespace SET revision = 3, stamp = 'another'")
    partial.waffle.refresh()
    assert state_of(partial.app).serving.current.undeclared == ("COVERT_ONCE",)
    assert "COVERT_ONCE" in partial.also("alice").get("/status").text
    for text in (partial.get("/status").html, partial.api("GET", "/status").text):
        assert_nothing_hidden(text)
