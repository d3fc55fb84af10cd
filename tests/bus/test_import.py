"""What Redis needs is loaded where Redis is used, at once; and elsewhere not at all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys
from flask import Flask
from uwsgi_waffle import WaffleConf

def make(multiproc):
    app = Flask("app", instance_path=sys.argv[1])
    app.config["WAFFLE_CONFS"] = {"SIZE": {"default": 1}}
    app.config["WAFFLE_SNAPSHOT_PATH"] = sys.argv[1] + "/snapshot"
    app.config["WAFFLE_MULTIPROC"] = multiproc
    return app, WaffleConf(app)

def made_validators():
    from uwsgi_waffle.bus import announcements, reports

    made = (announcements._messages, reports._hosts, reports._positions)
    return sum(function.cache_info().currsize for function in made)

app, waffle = make(False)
with app.test_request_context():
    waffle.update({"SIZE": 2})
waffle.status()
app.extensions["waffleconf"].retire()
print("redis" in sys.modules, made_validators())
make(True)
print("redis" in sys.modules, made_validators())
"""


def test_what_redis_needs_is_loaded_at_the_start_of_an_application_that_uses_it(
    tmp_path: Path,
) -> None:
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert found.stdout.split("\n") == ["False 0", "True 3", ""]
