"""What recipes of docs/recipes.md, and other pages, do, beyond that they run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.project.test_examples import PYTHON
from tests.support.places import ROOT
from tests.support.waiting import SOON_SECONDS, wait_until
from uwsgi_waffle import Health, InvalidSetting
from uwsgi_waffle.ops import metrics


def recipe(
    heading: str, directory: Path, monkeypatch: pytest.MonkeyPatch, page: str = "recipes.md"
) -> dict[str, Any]:
    """Run the program under a heading in a directory, and return its names."""
    found = [
        block
        for block in PYTHON
        if block.page.name == page
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


def test_the_views_for_probes_and_metrics_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = recipe("Probes and metrics", tmp_path, monkeypatch, "operations.md")
    waffle, client = names["waffle"], names["app"].test_client()
    waffle.update({"MAX_FILESIZE": 5})
    for probe in ("ready", "live"):
        answer = client.get(f"/healthz/{probe}")
        assert (answer.status_code, answer.text) == (200, "")
        ill = Health(ready=probe != "ready", live=probe != "live", reasons=("Why.", "Why else."))
        with monkeypatch.context() as patch:
            patch.setattr(waffle, "health", lambda: ill)  # noqa: B023  it is called here
            answer = client.get(f"/healthz/{probe}")
        assert (answer.status_code, answer.text) == (503, "Why.\nWhy else.")
    answer = client.get("/metrics")
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "\nwaffle_revision 1\n" in answer.text


def test_every_metric_is_documented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = recipe("Probes and metrics", tmp_path, monkeypatch, "operations.md")
    state = names["app"].extensions["waffleconf"]
    page = (ROOT / "docs" / "operations.md").read_text()
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `waffle_")]
    documented = re.findall(r"`(waffle_\w+)[`{]", "".join(rows))
    assert sorted(documented) == sorted(metric.name for metric in metrics.collect(state))
