"""A host snapshot that another user made: `doctor` names the owner, and what mends it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.conftest import Apps, state_of
from tests.support import require
from uwsgi_waffle.ops import host_checks

NOBODY = 65534


@pytest.mark.parametrize(
    ("taken", "mended"),
    [("snapshot.lock", "/snapshot*"), ("snapshot.processes", "/snapshot*"), ("", "")],
    ids=["lock", "processes", "directory"],
)
def test_the_doctor_names_the_owner_of_what_is_in_the_way(
    taken: str, mended: str, apps: Apps, tmp_path: Path
) -> None:
    """Any user can make the directory of another user in shared memory first."""
    require(os.geteuid() == 0, "the right to give a file away (root)")
    directory = tmp_path / "shared"
    directory.mkdir(mode=0o700)
    path = directory / taken
    if taken:
        path.touch(mode=0o600)
    os.chown(path, NOBODY, NOBODY)
    fix = _fix(apps, directory / "snapshot")
    assert f"{path} belongs to user nobody" in fix
    assert f"chown -R root {directory}{mended}`" in fix


def _fix(apps: Apps, path: Path) -> str:
    app, _ = apps(WAFFLE_CONFS={"SIZE": {"default": 1}}, WAFFLE_SNAPSHOT_PATH=str(path))
    found = {finding.code: finding for finding in host_checks.snapshot(state_of(app))}
    shared = found.get("snapshot-not-shared")
    return "" if shared is None else str(shared.fix)
