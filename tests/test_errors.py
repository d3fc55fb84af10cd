"""Errors that pass between processes, as those of a task in a pool do."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from tests.conftest import Apps
from uwsgi_waffle import (
    ConfigError,
    InvalidSetting,
    NotConverged,
    RevisionConflict,
    StoreUnavailable,
    UnknownRevision,
    UnknownSetting,
    WaffleConf,
    WaffleError,
)

RAISES: dict[type[WaffleError], Any] = {
    InvalidSetting: lambda waffle: waffle.update({"SIZE": "many"}),
    UnknownSetting: lambda waffle: waffle.update({"SIZES": 1}),
    RevisionConflict: lambda waffle: waffle.update({"SIZE": 2}, expected_revision=7),
    UnknownRevision: lambda waffle: waffle.rollback(7),
    NotConverged: lambda waffle: waffle.wait(7, timeout=0),
}


def assert_passes(error: WaffleError) -> None:
    """Fail unless another process would get all of an error."""
    got = pickle.loads(pickle.dumps(error))  # noqa: S301  # our own
    assert (type(got), str(got), vars(got)) == (type(error), str(error), vars(error))


@pytest.mark.parametrize("kind", RAISES, ids=lambda kind: kind.__name__)
def test_an_error_passes_whole_to_another_process(kind: type[WaffleError], apps: Apps) -> None:
    """A pool of processes hangs, or breaks, where its task raises what cannot be unpickled."""
    waffle: WaffleConf[Any] = apps(WAFFLE_CONFS={"SIZE": {"default": 1}})[1]
    with pytest.raises(kind) as caught:
        RAISES[kind](waffle)
    assert_passes(caught.value)


def test_an_error_about_a_key_or_the_database_does_too() -> None:
    assert_passes(ConfigError("wrong", key="WAFFLE_NAMESPACE", value=5))
    assert_passes(StoreUnavailable("away", url="sqlite://", waited_seconds=5, holder="pid 7"))
