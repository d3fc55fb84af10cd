"""The floor of waking workers: a mule that runs this file raises a signal, whose handler notes it.

`TEST_JOURNAL` is the file; `TEST_SIGNALS` the number of signals.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from typing import Any

import uwsgi

from tests.apps.notes import note

SIGNAL = 17
PAUSE_SECONDS = 0.01


def app(_environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer anything."""
    start_response("200 OK", [])
    return [b"hello"]


if __name__ == "__main__":
    for _ in range(int(os.environ["TEST_SIGNALS"])):
        time.sleep(PAUSE_SECONDS)
        note("sent")
        uwsgi.signal(SIGNAL)
    while True:
        time.sleep(PAUSE_SECONDS)
else:
    uwsgi.register_signal(SIGNAL, "workers", lambda _: note("ran"))
