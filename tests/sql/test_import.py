"""A process loads the driver and the dialect of its own database, and no other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys
from flask import Flask
from uwsgi_waffle import WaffleConf

def loaded():
    return [name for name in ("sqlite3", "sqlalchemy.dialects.mysql") if name in sys.modules]

print(*loaded(), sep=",")
app = Flask("app", instance_path=sys.argv[1])
app.config["WAFFLE_CONFS"] = {"SIZE": {"default": 1}}
app.config["WAFFLE_SNAPSHOT_PATH"] = sys.argv[1] + "/snapshot"
waffle = WaffleConf(app)
waffle.update({"SIZE": 2})
app.extensions["waffleconf"].retire()
print(*loaded(), sep=",")
"""


def test_sqlite_loads_no_dialect_but_its_own_and_the_import_none(tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert found.stdout.split("\n") == ["", "sqlite3", ""]
