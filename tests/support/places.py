"""Where the repository, the package and the documentation are."""

from __future__ import annotations

import os
from pathlib import Path

import uwsgi_waffle

__all__ = ["PACKAGE", "PAGES", "ROOT"]

ROOT = Path(__file__).parents[2]
#: What the path of each module of the package begins with, wherever that is installed.
PACKAGE = str(Path(uwsgi_waffle.__file__).parent) + os.sep
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
