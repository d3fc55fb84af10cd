"""Every public name is typed in full, as pyright sees it in an application that uses it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import uwsgi_waffle
from tests.support import require
from tests.support.places import ROOT


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


def test_a_type_checker_knows_each_setting(tmp_path: Path) -> None:
    """In the package as it is installed; `make lint` has mypy read the same program."""
    pyright = Path(sys.prefix) / "bin" / "pyright"
    require(pyright.exists(), "pyright (pip install --group dev)")
    shutil.copy(ROOT / "tests" / "apps" / "typed.py", tmp_path)
    config = {
        "typeCheckingMode": "strict",
        "enableTypeIgnoreComments": False,
        "reportUnnecessaryTypeIgnoreComment": "error",
    }
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(config))
    found = subprocess.run(
        [str(pyright), "--pythonpath", sys.executable, "--project", str(tmp_path)],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": ""},
    )
    assert found.returncode == 0, found.stdout + found.stderr
