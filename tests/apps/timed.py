"""The app of `tests.apps.whole_numbers`, which notes when a change reaches each step of its way.

`tests.bench.budget` reads the notes: lines of step, process and nanoseconds, beside the journal.
"""

from __future__ import annotations

import functools
import os
import time
from typing import Any

from tests.apps.whole_numbers import app, state
from uwsgi_waffle.bus.channel import Bus
from uwsgi_waffle.bus.reports import HostReports
from uwsgi_waffle.bus.subscription import Subscription
from uwsgi_waffle.host.records import HostSnapshot
from uwsgi_waffle.listen.reconcile import Reconciler
from uwsgi_waffle.process import serving
from uwsgi_waffle.process.callbacks import Callbacks
from uwsgi_waffle.process.serving import Serving
from uwsgi_waffle.server import _uwsgi

__all__ = ["app"]

#: What is called -> the steps that begin and end there, `""` for one that is not noted.
STEPS: dict[tuple[Any, str], tuple[str, str]] = {
    (state.store, "write"): ("", "committed"),
    (HostSnapshot, "publish"): ("", "published"),
    (_uwsgi.Server, "signal"): ("", "signalled"),
    (Bus, "publish"): ("", "announced"),
    (Subscription, "receive"): ("", "received"),
    (Reconciler, "apply"): ("", "applied"),
    (HostReports, "put"): ("reporting", "reported"),
    (Serving, "wake"): ("woken", "followed"),
    (serving, "build"): ("", "built"),
    (Serving, "swap"): ("", "swapped"),
    (Callbacks, "run"): ("calling back", "called back"),
}

_file = os.environ["TEST_JOURNAL"] + ".steps"
_notes = os.open(_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def _note(step: str) -> None:
    if step:
        os.write(_notes, f"{os.getpid()} {time.monotonic_ns()} {step}\n".encode())


def _timed(owner: Any, name: str, begins: str, ends: str) -> None:
    function = getattr(owner, name)

    @functools.wraps(function)
    def timed(*arguments: Any, **options: Any) -> Any:
        _note(begins)
        result = function(*arguments, **options)
        if ends != "received" or result.announcements:  # most of what it returns is nothing
            _note(ends)
        return result

    setattr(owner, name, timed)


for (owner, name), (begins, ends) in STEPS.items():
    _timed(owner, name, begins, ends)
