"""What happens where a server that a test needs is not installed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

#: Debian keeps servers where the search path of an ordinary user does not look.
SERVER_DIRECTORIES = ("/usr/local/sbin", "/usr/sbin", "/sbin")


def in_ci() -> bool:
    """Whether this run must not leave anything out."""
    return os.environ.get("CI", "").lower() in {"1", "true"}


def require(available: object, what: str) -> None:
    """Go on if *available* is true. Else fail in CI, and skip the test on a laptop."""
    if available:
        return
    reason = f"not available here: {what}"
    if in_ci():
        raise RuntimeError(reason)
    pytest.skip(reason)


def find_program(*names: str) -> str | None:
    """Return the path of the first program of *names* that is installed."""
    versions = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)
    search_path = os.pathsep.join((os.environ.get("PATH", ""), *SERVER_DIRECTORIES, *versions))
    found = (shutil.which(name, path=search_path) for name in names)
    return next((path for path in found if path), None)


def require_program(*names: str) -> str:
    """Return the path of the first program of *names*, or `require` it."""
    path = find_program(*names)
    require(path, f"the program {' or '.join(names)}")
    assert path is not None
    return path
