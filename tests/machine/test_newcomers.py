"""A process that joins after a proof serves what was proven, although the proof did not know it."""

from __future__ import annotations

from tests.conftest import Apps
from tests.support import RedisServer, wait_until
from tests.support.listening import Host
from tests.support.programs import Program
from tests.support.waiting import NEVER_SECONDS, SOON_SECONDS

#: Loads an application, then takes a request for each line and prints the size that it served.
APPLICATION = f"""
import sys
from flask import Flask
from uwsgi_waffle import WaffleConf
app = Flask("newcomer", instance_path=sys.argv[1])
app.config.update(
    WAFFLE_DATABASE_URI=f"sqlite:///{{sys.argv[1]}}/waffle.db",
    WAFFLE_SNAPSHOT_PATH=f"{{sys.argv[1]}}/there/snapshot",
    WAFFLE_CONFS={{"SIZE": {{"default": 1}}}},
    WAFFLE_MULTIPROC=True,
    WAFFLE_LISTENER="thread",
    WAFFLE_POLL_SECONDS={NEVER_SECONDS},
    WAFFLE_REDIS_URL=sys.argv[2],
)
waffle = WaffleConf(app)
app.add_url_rule("/", view_func=lambda: str(waffle.settings.SIZE))
print("loaded", flush=True)
for line in sys.stdin:
    if line.strip() == "end":
        break
    print(app.test_client().get("/").text, flush=True)
"""


def test_the_first_request_after_a_host_had_no_process_compares_with_sql(
    apps: Apps, redis_server: RedisServer
) -> None:
    """As when gunicorn reloads: the new workers load before the old ones end, and serve later.

    Between them the host has no process, so a proof rightly does not wait for it.
    """
    here = Host(apps, "here", redis_server)
    here.listen(redis_server)
    arguments = (APPLICATION, apps.directory, redis_server.url)
    with Program(*arguments) as before:
        assert before.read() == "loaded"
        here.change(2)
        assert before.ask() == "2"
        wait_until(lambda: redis_server.subscribers() == 2, SOON_SECONDS, "both hosts listen")
        with Program(*arguments) as newcomer:
            assert newcomer.read() == "loaded"
            before.send("end")
            before.process.wait(SOON_SECONDS)
            here.change(3)
            assert here.waffle.wait(2).total == 1, "the host that has no process is not known"
            assert newcomer.ask() == "3"
