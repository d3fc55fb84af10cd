"""Every public name is typed in full, as pyright sees it in an application that uses it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import uwsgi_waffle
from tests.support import require


def test_every_public_name_is_typed_in_full() -> None:
    """What other modules hold is not public, though their names have no underscore."""
    binaries = Path(sys.prefix) / "bin"
    pyright = binaries / "pyright"
    require(pyright.exists(), "pyright (pip install --group dev)")
    command = [str(pyright), "--verifytypes", "uwsgi_waffle", "--ignoreexternal", "--outputjson"]
    # It looks for the package where the first `python` of the path does.
    path = os.pathsep.join((str(binaries), os.environ["PATH"]))
    found = subprocess.run(
        command, check=False, capture_output=True, env={**os.environ, "PATH": path}
    )
    report = json.loads(found.stdout)["typeCompleteness"]
    symbols = {symbol["name"]: symbol for symbol in report["symbols"]}
    assert {f"uwsgi_waffle.{name}" for name in uwsgi_waffle.__all__} <= symbols.keys()
    public = {name for name in symbols if name.rpartition(".")[2] in uwsgi_waffle.__all__}
    public |= {"uwsgi_waffle.boot.install", "uwsgi_waffle.mule.main"}
    incomplete = {
        name: [diagnostic["message"] for diagnostic in symbol["diagnostics"]]
        for name, symbol in symbols.items()
        if any(name == one or name.startswith(f"{one}.") for one in public)
        and (symbol["isTypeAmbiguous"] or not symbol["isTypeKnown"])
    }
    assert incomplete == {}


#: What an application does; each line that ends in `# wrong` is one that a type checker refuses.
PROGRAM = """
from __future__ import annotations
from typing import Any
from flask import Flask
from pydantic import Field
from typing_extensions import assert_type
from uwsgi_waffle import Update, WaffleConf, WaffleSettings
from uwsgi_waffle.testing import WaffleOverride

class Settings(WaffleSettings):
    SITENAME: str = Field("Waffle", description="Shown in the header")
    TAGS: tuple[str, ...] = ()
    LIMIT: int | None = None

app = Flask(__name__)
waffle = WaffleConf(app, Settings)
assert_type(waffle, WaffleConf[Settings])
assert_type(waffle.settings, Settings)
assert_type(waffle.settings.SITENAME, str)
assert_type(waffle.settings.TAGS, tuple[str, ...])
assert_type(waffle.settings.LIMIT, int | None)
assert_type(WaffleConf(settings=Settings).settings.SITENAME, str)
assert_type(WaffleConf(app).settings, Any)
assert_type(waffle.update({"SITENAME": "New"}), Update)
waffle.settings.SITENAM  # wrong
WaffleConf(app, Flask)  # wrong

@waffle.on_change("LIMIT")
def changed(old: int | None, new: int | None) -> None: ...
assert_type(changed(1, 2), None)

@waffle.override(SITENAME="x")
async def read(more: int) -> str:
    return waffle.settings.SITENAME
read("many")  # wrong

def test_it(waffle_override: WaffleOverride) -> None:
    waffle_override(SITENAME="x")
    waffle_override("x")  # wrong
"""


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_a_type_checker_knows_each_setting(checker: str, tmp_path: Path) -> None:
    binaries = Path(sys.prefix) / "bin"
    require((binaries / checker).exists(), f"{checker} (pip install --group dev)")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    config = '{"typeCheckingMode": "strict", "reportExpressionStatement": false}'
    (tmp_path / "pyrightconfig.json").write_text(config)
    command = {
        "mypy": ["mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), str(program)],
        "pyright": ["pyright", "--pythonpath", sys.executable, "--project", str(tmp_path)],
    }[checker]
    found = subprocess.run(
        [str(binaries / command[0]), *command[1:]],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": "", "PYTHONPATH": ""},
    )
    lines = PROGRAM.splitlines()
    wrong = {number for number, line in enumerate(lines, 1) if line.endswith("# wrong")}
    errors = re.findall(r"program\.py:(\d+)(?::\d+ -)?:? error", found.stdout)
    assert {int(number) for number in errors} == wrong, found.stdout + found.stderr
