"""Bad input: each a clear error in one line, and nothing changed."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import Field

from tests.conftest import Apps, state_of
from tests.support.declarations import Bounds
from uwsgi_waffle import (
    ConfigError,
    InvalidSetting,
    RevisionConflict,
    UnknownRevision,
    UnknownSetting,
    WaffleConf,
    WaffleError,
    settings_changed,
)


class Settings(Bounds):
    """Settings that refuse in every way."""

    SITENAME: str = Field(default="Waffle", max_length=300_000)
    RATIO: float = 1.0


#: What is given, the error, and a part of its message.
BAD_VALUES: list[tuple[Any, type[Exception], str]] = [
    ({"SITENAM": "x"}, UnknownSetting, "Unknown setting SITENAM. Did you mean SITENAME?"),
    ({"X": 1, "Y": 2}, UnknownSetting, "Unknown settings X, Y."),
    ({"WAFFLE_NAMESPACE": "x"}, UnknownSetting, "Unknown setting WAFFLE_NAMESPACE."),
    ({5: 1}, UnknownSetting, "Unknown setting 5."),
    ({None: 1}, UnknownSetting, "Unknown setting None."),
    ({"LO": "many"}, InvalidSetting, "LO: Input should be a valid integer"),
    ({"LO": 1.5}, InvalidSetting, "LO: Input should be a valid integer"),
    ({"LO": None}, InvalidSetting, "LO: Input should be a valid integer"),
    ({"SITENAME": 5}, InvalidSetting, "SITENAME: Input should be a valid string"),
    ({"SITENAME": "\ud800"}, InvalidSetting, "SITENAME: "),
    ({"LO": -1}, InvalidSetting, "LO: Input should be greater than or equal to 0"),
    ({"LO": 11}, InvalidSetting, "LO must not exceed HI"),
    ({"RATIO": float("inf")}, InvalidSetting, "RATIO: JSON has no form for it"),
    ({"SITENAME": "x" * 1_000_000}, InvalidSetting, "at most 300000 characters"),
    ({"SITENAME": "x" * 262_145}, InvalidSetting, "SITENAME: The value is 262,147 bytes"),
    ({"SITENAME": "New", "HI": 20, "LO": "?"}, InvalidSetting, "LO: "),
    ([("SITENAME", "New")], TypeError, "must be a mapping of name to value, not list"),
    (None, TypeError, "must be a mapping of name to value, not NoneType"),
    ("SITENAME", TypeError, "must be a mapping of name to value, not str"),
]


@pytest.mark.parametrize(("values", "error", "message"), BAD_VALUES)
def test_a_bad_value_is_a_clear_error_and_changes_nothing(
    apps: Apps, values: Any, error: type[Exception], message: str
) -> None:
    app, waffle = apps(Settings)
    waffle.update({"RATIO": 2.0})
    state = state_of(app)
    received: list[object] = []

    def receive(*_: object, **__: object) -> None:
        received.append("changed")

    before = (state.store.read(), waffle.settings, dict(app.config), state.host.sequence)
    with settings_changed.connected_to(receive, app), pytest.raises(error) as caught:
        waffle.update(values)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert before == (state.store.read(), waffle.settings, dict(app.config), state.host.sequence)
    assert received == []
    assert len(waffle.history()) == 1
    # The refusal has left no lock behind.
    assert waffle.update({"SITENAME": "New"}, expected_revision=1).revision == 2


def test_an_invalid_setting_carries_the_errors_of_pydantic(apps: Apps) -> None:
    _, waffle = apps(Settings)
    with pytest.raises(InvalidSetting) as caught:
        waffle.update({"LO": -1, "RATIO": "x"})
    assert [(e["loc"], e["type"]) for e in caught.value.errors] == [
        (("LO",), "greater_than_equal"),
        (("RATIO",), "float_parsing"),
    ]
    assert isinstance(caught.value, WaffleError)


@pytest.mark.parametrize(
    ("signature", "message"),
    [
        ({"actor": "a" * 201}, "actor: it has 201 characters; the most is 200"),
        ({"actor": 5}, "actor: it must be a text, not int"),
        ({"comment": "a\0b"}, "comment: it holds a character that no database stores"),
        ({"comment": "c" * 10_001}, "comment: it has 10,001 characters"),
        ({"actor": "\udcff"}, "actor: it holds a character"),
    ],
)
def test_a_bad_actor_or_comment_is_a_clear_error(
    apps: Apps, signature: dict[str, Any], message: str
) -> None:
    _, waffle = apps(Settings)
    with pytest.raises(InvalidSetting) as caught:
        waffle.update({"LO": 1}, **signature)
    assert message in str(caught.value)
    assert (waffle.revision, waffle.history()) == (0, [])


@pytest.mark.parametrize("revision", ["1", 1.0, None])
def test_what_is_no_revision_is_a_clear_error(apps: Apps, revision: Any) -> None:
    """A text would never be the present one, though it looks alike in the message."""
    _, waffle = apps(Settings)
    waffle.update({"LO": 1})
    with pytest.raises(TypeError, match=r"such as 41, not (str|float|NoneType)"):
        waffle.rollback(revision)
    if revision is not None:
        with pytest.raises(TypeError, match="A revision is a whole number"):
            waffle.update({"LO": 2}, expected_revision=revision)
    assert waffle.revision == 1


def test_a_list_of_names_to_reset_is_a_clear_error(apps: Apps) -> None:
    _, waffle = apps(Settings)
    with pytest.raises(TypeError, match="takes names of settings, not list"):
        waffle.reset(["LO"])  # type: ignore[arg-type]


def test_resets_and_rollbacks_refuse_unknown_names_and_revisions(apps: Apps) -> None:
    _, waffle = apps(Settings)
    waffle.update({"LO": 1})
    with pytest.raises(UnknownSetting):
        waffle.reset("LO", "NOPE")
    with pytest.raises(UnknownRevision):
        waffle.rollback(2)
    with pytest.raises(RevisionConflict):
        waffle.reset("LO", expected_revision=0)
    with pytest.raises(RevisionConflict):
        waffle.rollback(0, expected_revision=0)
    assert (waffle.revision, waffle.settings.LO) == (1, 1)


def test_a_reset_or_rollback_that_breaks_the_whole_is_refused(apps: Apps) -> None:
    _, waffle = apps(Settings)
    waffle.update({"LO": 15, "HI": 20})
    with pytest.raises(InvalidSetting, match="LO must not exceed HI"):
        waffle.reset("HI")

    class Stricter(Settings):
        LO: int = Field(default=0, ge=0, le=12)

    _, later = apps(Stricter, host="there")
    later.update({"LO": 3})
    with pytest.raises(InvalidSetting, match="LO: Input should be less than or equal to 12"):
        later.rollback(1)
    assert (later.revision, later.settings.LO) == (2, 3)


@pytest.mark.parametrize(
    ("confs", "config", "key"),
    [
        ({"WAFFLE_X": {"default": 1}}, {}, "WAFFLE_X"),
        ({"X": {"default": object()}}, {}, "X"),
        ({"X": {"default": "x" * 1_000_000}}, {}, "X"),
        ({"X": {"default": 1}}, {"WAFFLE_REDIS": "x"}, "WAFFLE_REDIS"),
        ({"X": {"default": 1}}, {"WAFFLE_REDIS_URL": "http://x"}, "WAFFLE_REDIS_URL"),
        ({"X": {"default": 1}}, {"WAFFLE_REDIS_URL": "redis://h:p"}, "WAFFLE_REDIS_URL"),
        ({"X": {"default": 1}}, {"WAFFLE_DATABASE_URI": "x"}, "WAFFLE_DATABASE_URI"),
    ],
)
def test_a_wrong_configuration_is_an_error_at_start_that_leaves_the_app_alone(
    apps: Apps, confs: dict[str, Any], config: dict[str, Any], key: str
) -> None:
    app = apps.flask(WAFFLE_CONFS=confs, **config)
    with pytest.raises(ConfigError) as caught:
        WaffleConf(app)
    assert caught.value.key == key
    assert key in str(caught.value)
    assert "X" not in app.config
    assert "waffleconf" not in app.extensions
