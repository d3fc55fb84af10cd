"""Each line of the threat model is held by tests that exist."""

from __future__ import annotations

import ast
import re

from tests.support.places import ROOT

TEXT = (ROOT / "docs" / "security.md").read_text()
TESTS = sorted(set(re.findall(r"`(tests/\S+\.py::\w+)`", TEXT)))


def test_each_line_names_a_test() -> None:
    lines = [line for line in TEXT.splitlines() if line.startswith("| ") and "held by" not in line]
    assert len(lines) > 30
    assert [line for line in lines if "`tests/" not in line] == []


def test_each_test_that_is_named_exists() -> None:
    """As a function of the file, or of a class in it."""
    found = set()
    for name in {test.partition("::")[0] for test in TESTS}:
        nodes = ast.walk(ast.parse((ROOT / name).read_text()))
        found |= {f"{name}::{node.name}" for node in nodes if isinstance(node, ast.FunctionDef)}
    assert [test for test in TESTS if test not in found] == []
