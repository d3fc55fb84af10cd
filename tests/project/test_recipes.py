"""What recipes of docs/recipes.md do, beyond that they run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.project.test_examples import PYTHON
from tests.support.waiting import SOON_SECONDS, wait_until
from uwsgi_waffle import InvalidSetting


def recipe(heading: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run the program under a heading in a directory, and return its names."""
    found = [
        block
        for block in PYTHON
        if block.page.name == "recipes.md"
        and f"## {heading}" == last_heading(block.page.read_text(), block.line)
    ]
    (block,) = found
    monkeypatch.chdir(directory)
    names: dict[str, Any] = {"__name__": "recipe", "__file__": str(directory / "recipe.py")}
    exec(compile(block.text, "recipe.py", "exec", dont_inherit=True), names)  # noqa: S102  # our own page
    return names


def last_heading(page: str, line: int) -> str:
    """Return the heading above a line."""
    return next(one for one in page.splitlines()[:line][::-1] if one.startswith("## "))


def test_limits_and_caches_follow_a_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = recipe("Limits and caches that follow a setting", tmp_path, monkeypatch)
    waffle, index, cache = names["waffle"], names["index"], names["cache"]
    client = names["app"].test_client()

    def statuses(count: int) -> list[int]:
        return [client.get("/").status_code for _ in range(count)]

    waffle.update({"RATE": "2 per hour"})
    assert statuses(3) == [200, 200, 429]
    waffle.update({"RATE": "5 per hour"})
    assert statuses(6) == [200, 200, 200, 200, 200, 429]
    with pytest.raises(InvalidSetting, match="RATE: Value error, couldn't parse"):
        waffle.update({"RATE": "often"})

    cache.set("view//", "of before")
    assert index.cache_timeout == 60
    waffle.update({"CACHE_SECONDS": 7})
    wait_until(lambda: index.cache_timeout == 7, SOON_SECONDS, "the callback has run")
    wait_until(lambda: cache.get("view//") is None, SOON_SECONDS, "the cache is empty")
