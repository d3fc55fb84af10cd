"""`rollback`: what it shows, asks and does."""

from __future__ import annotations

import pytest
from pydantic import create_model

from tests.cli.conftest import Settings, Site
from tests.conftest import Apps
from tests.support.command_line import run_in_process as run
from uwsgi_waffle import WaffleSettings


class TestRollback:
    """`rollback` shows what it would change, and asks."""

    @pytest.fixture
    def changed(self, site: Site) -> Site:
        """Give three revisions."""
        site[1].update({"MAX": 5, "API_KEY": "s3cret"})
        site[1].update({"MAX": 6})
        site[1].update({"SITENAME": "x"})
        return site

    def test_shows_the_difference_and_asks(self, changed: Site) -> None:
        done = run(changed[0], "rollback", "1", typed="y\n")
        assert done.status == 0
        asked = done.errors.splitlines()
        assert asked[:2] == ['SITENAME: "x" -> "Waffle"', "MAX: 6 -> 5"]
        assert asked[2].startswith("Go back to revision 1?")
        assert changed[1].settings.MAX == 5
        change = changed[1].history()[0]
        assert (change.revision, change.comment) == (4, "rollback to revision 1")

    @pytest.mark.parametrize("answer", ["n\n", ""])
    def test_does_nothing_without_a_yes(self, changed: Site, answer: str) -> None:
        assert run(changed[0], "rollback", "1", typed=answer).status == 1
        assert changed[1].revision == 3

    def test_yes_does_not_ask(self, changed: Site) -> None:
        done = run(changed[0], "rollback", "0", "--yes")
        assert "Go back" not in done.errors
        assert "API_KEY: ******** -> ********" in done.output
        assert changed[1].settings == Settings.model_validate({})

    def test_what_was_not_shown_is_not_done(
        self, changed: Site, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A change made while the question is open makes the answer void."""

        def confirm(*_: object, **__: object) -> bool:
            changed[1].update({"MAX": 99}, actor="bob")
            return True

        monkeypatch.setattr("click.confirm", confirm)
        done = run(changed[0], "rollback", "1")
        assert done.status == 1
        assert "bob (python) changed MAX from 6 to 99" in done.errors
        assert changed[1].settings.MAX == 99

    def test_past_the_history_is_refused(self, changed: Site) -> None:
        done = run(changed[0], "rollback", "9", "--yes")
        assert done.status == 1
        assert "There is no revision 9" in done.errors

    def test_to_equal_values_changes_nothing(self, changed: Site) -> None:
        done = run(changed[0], "rollback", "3")
        assert done.output == "Nothing to change: revision 3 has these values already.\n"


def test_a_rollback_shows_stored_values_that_this_release_cannot_use(apps: Apps) -> None:
    """And the history keeps them: the older release must not say that its default was stored."""
    app, waffle = apps(Settings)
    waffle.update({"MIN": 9})
    newer = create_model("Newer", __base__=WaffleSettings, MIN=(str, ""))
    apps(newer)[1].update({"MIN": "five"})
    waffle.refresh()
    assert waffle.settings.MIN == 9
    done = run(app, "rollback", "1", typed="y\n")
    assert 'MIN: "five" -> 9' in done.errors
    assert "The stored value of MIN cannot be used" in done.errors
    assert done.status == 0
    change = waffle.history(limit=1)[0]
    assert (change.revision, change.old, change.new) == (3, "five", 9)
