"""The application of ``under_uwsgi``, if a file lets it load; with a watchdog as quick as asked."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import uwsgi

from uwsgi_waffle import mule

mule.WATCHDOG_SECONDS = int(os.environ.get("TEST_WATCHDOG", mule.WATCHDOG_SECONDS))

#: What the mule, and only the mule, meets: "raise", "exit", or nothing for an app that loads.
trouble = Path(os.environ["TEST_TROUBLE"]).read_text() if uwsgi.mule_id() else ""
if trouble == "raise":
    message = "this application does not load"
    raise RuntimeError(message)
if trouble == "exit":
    sys.exit("this application ends the process")
if trouble != "none":
    from tests.apps.under_uwsgi import app

    __all__ = ["app"]
