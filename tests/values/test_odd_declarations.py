"""Declarations and values that pydantic allows, and that could make the package fail by itself."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from pydantic import ConfigDict, Field, model_validator

from tests.conftest import Apps, execute, state_of
from uwsgi_waffle import ConfigError, InvalidSetting, WaffleSettings


@pytest.mark.filterwarnings("ignore:A custom validator is returning:UserWarning")
def test_a_validator_without_return_self_is_named_at_the_start(apps: Apps) -> None:
    class Forgetful(WaffleSettings):
        X: int = 1

        @model_validator(mode="after")
        def check(self) -> Any:
            """Return nothing."""

    with pytest.raises(ConfigError, match=r"returned NoneType .* Let it end with `return self`"):
        apps(Forgetful)


class Sometimes(WaffleSettings):
    """Its validator returns nothing where X is 5."""

    X: int = 1

    @model_validator(mode="after")
    def check(self) -> Any:
        """Forget one of the ways out."""
        return self if self.X != 5 else None


@pytest.mark.filterwarnings("ignore:A custom validator is returning:UserWarning")
def test_a_validator_that_sometimes_returns_nothing_refuses_the_value(apps: Apps) -> None:
    _, waffle = apps(Sometimes)
    with pytest.raises(InvalidSetting, match="returned NoneType in place of the settings"):
        waffle.update({"X": 5})
    assert waffle.update({"X": 6}).revision == 1


@pytest.mark.filterwarnings("ignore:A custom validator is returning:UserWarning")
def test_a_stored_value_for_which_a_validator_returns_nothing_replaces_no_good_one(
    apps: Apps,
) -> None:
    """As where a release with another validator has stored it."""
    app, waffle = apps(Sometimes)
    waffle.update({"X": 2})
    execute(
        apps.database_uri,
        "UPDATE waffle_setting SET value = '5'",
        "UPDATE waffle_namespace SET revision = 2, stamp = '0123456789abcdef'",
    )
    assert waffle.refresh()
    assert waffle.settings.X == 2
    (refused,) = state_of(app).serving.current.refused
    assert "returned NoneType" in refused.reason


def test_a_setting_that_is_not_read_by_its_name_is_refused(apps: Apps) -> None:
    """It would be stored by its name, and its default served from the next start on."""

    class ByAlias(WaffleSettings):
        model_config = ConfigDict(populate_by_name=False, extra="ignore")
        X: int = Field(1, alias="x")

    with pytest.raises(ConfigError, match="X is not read by its name") as caught:
        apps(ByAlias)
    assert caught.value.key == "X"


def test_a_value_that_cannot_be_compared_is_refused(apps: Apps) -> None:
    class Exact(WaffleSettings):
        X: Decimal = Field(Decimal(1), allow_inf_nan=True)

    _, waffle = apps(Exact)
    with pytest.raises(InvalidSetting, match="X: It would come back from JSON as another value"):
        waffle.update({"X": Decimal("sNaN")})


def test_half_of_a_surrogate_pair_is_refused_under_the_name_of_its_setting(apps: Apps) -> None:
    class Texts(WaffleSettings):
        X: str = ""
        Y: str = ""

    _, waffle = apps(Texts)
    with pytest.raises(InvalidSetting, match=r"Y: .*half of a surrogate pair") as caught:
        waffle.update({"X": "fine", "Y": "\ud800"})
    assert [error["loc"] for error in caught.value.errors] == [("Y",)]
