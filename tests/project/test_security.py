"""Each line of the threat model is held by tests that exist."""

from __future__ import annotations

import re
import subprocess
import sys

from tests.support.uwsgi_server import ROOT

TEXT = (ROOT / "docs" / "security.md").read_text()
TESTS = sorted(set(re.findall(r"`(tests/\S+\.py::\w+)`", TEXT)))


def test_each_line_names_a_test() -> None:
    lines = [line for line in TEXT.splitlines() if line.startswith("| ") and "held by" not in line]
    assert len(lines) > 30
    assert [line for line in lines if "`tests/" not in line] == []


def test_each_test_that_is_named_exists() -> None:
    """As pytest itself sees it."""
    files = {test.partition("::")[0] for test in TESTS}
    collected = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", *sorted(files)],
        check=True,
        cwd=ROOT,
        capture_output=True,
        text=True,
    ).stdout
    found = {line.partition("[")[0] for line in collected.splitlines()}
    assert [test for test in TESTS if test not in found] == []
