"""`health`: whether a process is to get requests, and whether to start it anew."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import Field, SecretStr

from tests.conftest import Apps, state_of
from tests.ops.conftest import WELL, becomes
from tests.process.conftest import forbidden_io
from tests.support.listening import CONFS
from tests.support.waiting import NEVER_SECONDS
from uwsgi_waffle import WaffleConf, WaffleSettings
from uwsgi_waffle.errors import StoreUnavailable
from uwsgi_waffle.ops import health


class Settings(WaffleSettings):
    """A number with a limit, and a secret."""

    SIZE: int = Field(1, le=1000)
    API_KEY: SecretStr = SecretStr("k3y")


@contextlib.contextmanager
def sql_is_gone(apps: Apps) -> Iterator[None]:
    """Have a directory in the place of the database; connections that are open see it still."""
    path = apps.directory / "waffle.db"
    kept = path.rename(apps.directory / "kept.db") if path.exists() else None
    path.mkdir()
    yield
    path.rmdir()
    if kept is not None:
        kept.rename(path)


# -- ready ----------------------------------------------------------------------------------------


def test_a_process_that_has_read_that_nothing_was_changed_yet_is_ready(apps: Apps) -> None:
    _, waffle = apps(WAFFLE_CONFS=CONFS)
    assert waffle.health() == WELL


def test_a_process_that_has_read_that_there_are_no_tables_is_ready(apps: Apps) -> None:
    """SQL has answered that there are no settings yet."""
    _, waffle = apps(WAFFLE_CONFS=CONFS, WAFFLE_AUTO_CREATE=False)
    assert waffle.health() == WELL


def test_a_process_that_could_load_nothing_is_not_ready_until_sql_answers(apps: Apps) -> None:
    """It finds that out by itself, as no request comes to a process that is not ready."""
    with sql_is_gone(apps):
        _, waffle = apps(WAFFLE_CONFS=CONFS, WAFFLE_POLL_SECONDS=0.1)
        found = waffle.health()
        assert (found.ready, found.live) == (False, True)
        assert "has loaded no settings yet, and serves the declared defaults" in found.reasons[0]
        assert f"{apps.database_uri} has not answered this host yet" in found.reasons[1]
    assert becomes(waffle.health, lambda h: h.ready, "it is ready") == WELL


def test_the_last_known_good_of_the_host_is_ready_without_sql(apps: Apps) -> None:
    _, writer = apps(WAFFLE_CONFS=CONFS)
    writer.update({"SIZE": 5})
    with sql_is_gone(apps):
        _, waffle = apps(WAFFLE_CONFS=CONFS, WAFFLE_POLL_SECONDS=0.1)
        found = waffle.health()
        assert (waffle.settings.SIZE, found.ready, found.live) == (5, True, True)
        (reason,) = found.reasons
        assert reason.startswith(f"{apps.database_uri} has not answered this host for ")
        assert reason.endswith("The last known settings are served: revision 1.")
    assert becomes(waffle.health, lambda h: not h.reasons, "SQL answers") == WELL


def test_a_process_that_cannot_follow_its_host_is_not_ready(
    apps: Apps, monkeypatch: pytest.MonkeyPatch
) -> None:
    (app, waffle), (_, writer) = apps(WAFFLE_CONFS=CONFS), apps(WAFFLE_CONFS=CONFS)
    writer.update({"SIZE": 5})
    with monkeypatch.context() as broken:
        broken.setattr(state_of(app).serving, "catch_up", lambda: None)
        found = waffle.health()
        assert (found.ready, found.live) == (False, True)
        assert found.reasons == (
            "This process serves revision 0, and cannot take revision 1 of its host.",
        )
    assert waffle.health() == WELL


def test_refused_values_leave_a_process_ready_and_show_no_value(apps: Apps) -> None:
    """A change that one release refuses must not take all its processes out of service."""
    _, writer = apps(WAFFLE_CONFS={"SIZE": {"default": 1}, "API_KEY": {"default": 1}})
    writer.update({"SIZE": 98765, "API_KEY": 43210})
    _, waffle = apps(Settings)
    found = waffle.health()
    assert (found.ready, found.live) == (True, True)
    (reason,) = found.reasons
    assert "2 stored values" in reason
    assert not any(value in reason for value in ("98765", "43210", "k3y"))


def test_a_process_is_set_up_by_the_first_question(apps: Apps) -> None:
    """A probe may be all that comes to a process that was just forked."""
    app, waffle = apps(WAFFLE_CONFS=CONFS)
    assert not state_of(app).host.slots.is_registered
    assert waffle.health() == WELL
    assert state_of(app).host.slots.is_registered


def test_health_asks_nothing_of_what_is_known(apps: Apps, monkeypatch: pytest.MonkeyPatch) -> None:
    app, waffle = apps(Settings, WAFFLE_POLL_SECONDS=NEVER_SECONDS)
    assert waffle.health() == WELL
    with forbidden_io(app, monkeypatch) as seen:
        assert waffle.health() == WELL
    assert seen == []


# -- never an error -------------------------------------------------------------------------------


def test_without_an_application_nothing_is_raised() -> None:
    found = WaffleConf().health()
    assert (found.ready, found.live) == (False, True)
    assert found.reasons == ("This WaffleConf has no app yet. Call init_app(app) first.",)


@pytest.mark.parametrize("error", [OSError("s3cret"), StoreUnavailable("s3cret", url="s3cret")])
def test_what_goes_wrong_is_a_reason_and_logged(
    apps: Apps,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    _, waffle = apps(WAFFLE_CONFS=CONFS)

    def fail(_state: object) -> Any:
        raise error

    monkeypatch.setattr(health, "own_host", fail)
    found = waffle.health()
    assert (found.ready, found.live) == (True, True)
    assert f"({type(error).__name__})" in found.reasons[0]
    assert "s3cret" not in str(found)
    assert "waffle: the health of this process cannot be told" in caplog.text


def test_no_reason_holds_the_password_of_the_database(apps: Apps) -> None:
    uri = "postgresql+psycopg://waffle:s3cret@127.0.0.1:1/none"
    _, waffle = apps(WAFFLE_CONFS=CONFS, WAFFLE_DATABASE_URI=uri)
    found = waffle.health()
    assert not found.ready
    assert "s3cret" not in str(found)
    assert "127.0.0.1:1/none" in str(found)
