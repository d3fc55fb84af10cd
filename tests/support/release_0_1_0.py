"""Release 0.1.0, built from its commit and installed where this release is out of reach."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

import pytest

from tests.support.places import ROOT
from tests.support.soak import is_soak

__all__ = ["python_of_0_1_0", "source_of_0_1_0"]

COMMIT = "89780c20a88570779dc0c71e5ab873ffefc35f79"
BUILD_SECONDS = 300


@functools.cache
def python_of_0_1_0() -> Path:
    """Return Python of an environment with the wheel of 0.1.0, made once for all test runs.

    It has the dependencies of this environment, which 0.1.0 accepts; a run of another environment
    at the same time has one of its own.
    """
    _require_history()
    environment = hashlib.sha256(f"{sys.prefix} {sysconfig.get_python_version()}".encode())
    name = f"waffle-0.1.0-{os.geteuid()}-{environment.hexdigest()[:8]}-{COMMIT[:7]}"
    directory = Path(tempfile.gettempdir()) / name
    python = directory / "venv" / "bin" / "python"
    with directory.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _make(directory)
    return python


def source_of_0_1_0(path: str) -> str:
    """Return the text of one of its files."""
    _require_history()
    return _git("show", f"{COMMIT}:{path}").stdout.decode()


def _require_history() -> None:
    """Skip the test where 0.1.0 is not in the history at hand."""
    if _git("cat-file", "-e", f"{COMMIT}^{{commit}}", check=False).returncode:
        reason = f"the history has no commit {COMMIT[:7]} (0.1.0): git fetch --unshallow"
        if is_soak():
            raise RuntimeError(reason)
        pytest.skip(reason)


def _make(directory: Path) -> None:
    """Build and install it, unless a former run has."""
    done = directory / "done"
    if done.exists():
        return
    shutil.rmtree(directory, ignore_errors=True)
    source = directory / "source"
    source.mkdir(parents=True)
    archive = directory / "source.tar"
    _git("archive", "--output", str(archive), COMMIT)
    shutil.unpack_archive(archive, source)
    _run(sys.executable, "-m", "build", "--wheel", "--outdir", str(directory), str(source))
    (wheel,) = directory.glob("*.whl")
    assert wheel.name.startswith("uwsgi_waffle-0.1.0-")
    venv.create(directory / "venv", symlinks=True)
    ours = Path(sysconfig.get_path("purelib"))
    theirs = directory / "venv" / ours.relative_to(sys.prefix)
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps")
    _run(*pip, "--target", str(theirs), str(wheel))
    # A directory on the path, not one of packages, so its editable installation is left out.
    (theirs / "dependencies.pth").write_text(f"{ours}\n")
    done.touch()


def _git(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
    git = shutil.which("git") or "/usr/bin/git"
    return subprocess.run([git, "-C", str(ROOT), *arguments], check=check, capture_output=True)


def _run(*command: str) -> None:
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=BUILD_SECONDS
    )
    assert done.returncode == 0, done.stdout + done.stderr
