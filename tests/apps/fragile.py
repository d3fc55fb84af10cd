"""The application of `whole_numbers`, if files let it load; with a watchdog as quick as asked."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import uwsgi

from uwsgi_waffle import mule

mule.WATCHDOG_SECONDS = int(os.environ.get("TEST_WATCHDOG", mule.WATCHDOG_SECONDS))

if Path(os.environ.get("TEST_SLOW", "")).is_file():
    time.sleep(5)

#: What the mule alone meets: "raise", "exit", "none", "threads", or "" for no trouble.
trouble = Path(os.environ["TEST_TROUBLE"]).read_text() if uwsgi.mule_id() else ""
if trouble == "raise":
    message = "this application does not load"
    raise RuntimeError(message)
if trouble == "exit":
    sys.exit("this application ends the process")
if trouble == "threads":
    # Setting a limit would not do: it does not hold for root.
    def refuse(_thread: threading.Thread) -> None:
        """Fail as the system does where no thread can be started."""
        message = "can't start new thread"
        raise RuntimeError(message)

    threading.Thread.start = refuse  # type: ignore[assignment,method-assign]  # in the mule
if trouble != "none":
    from tests.apps.whole_numbers import app

    __all__ = ["app"]
