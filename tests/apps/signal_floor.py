"""The floor of waking workers: a mule that runs this file raises a signal, whose handler notes it.

`TEST_JOURNAL` is the file; `TEST_SIGNALS` the number of signals.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from typing import Any

import uwsgi

SIGNAL = 17
PAUSE_SECONDS = 0.01


def note(what: str) -> None:
    """Write down that something happened now."""
    journal = os.open(os.environ["TEST_JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(journal, f"{what} {time.monotonic_ns()}\n".encode())
    finally:
        os.close(journal)


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
