"""A host snapshot that another user made: `doctor` names the owner, and what mends it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.conftest import Apps, state_of
from tests.support import require
from uwsgi_waffle.ops import host_checks

NOBODY = 65534


@pytest.mark.parametrize("suffix", [".lock", ".processes"])
def test_the_doctor_names_the_owner_of_a_file_in_the_way(
    suffix: str, apps: Apps, tmp_path: Path
) -> None:
    require(os.geteuid() == 0, "the right to give a file away (root)")
    path = tmp_path / "shared" / f"snapshot{suffix}"
    path.parent.mkdir(mode=0o700)
    path.touch(mode=0o600)
    os.chown(path, NOBODY, NOBODY)
    fix = _fix(apps, path.parent / "snapshot")
    assert f"{path} belongs to user nobody" in fix
    assert f"chown -R root {path.parent}/snapshot*`" in fix


def test_the_doctor_names_the_owner_of_a_directory_in_the_way(apps: Apps, tmp_path: Path) -> None:
    """Any user can make the directory of another user in shared memory first."""
    require(os.geteuid() == 0, "the right to give a directory away (root)")
    directory = tmp_path / "taken"
    directory.mkdir(mode=0o700)
    os.chown(directory, NOBODY, NOBODY)
    fix = _fix(apps, directory / "snapshot")
    assert f"{directory} belongs to user nobody" in fix
    assert f"chown -R root {directory}`" in fix


def _fix(apps: Apps, path: Path) -> str:
    app, _ = apps(WAFFLE_CONFS={"SIZE": {"default": 1}}, WAFFLE_SNAPSHOT_PATH=str(path))
    found = {finding.code: finding for finding in host_checks.snapshot(state_of(app))}
    shared = found.get("snapshot-not-shared")
    return "" if shared is None else str(shared.fix)
