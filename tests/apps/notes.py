"""Writing down when something happened, in a file that many processes share."""

from __future__ import annotations

import os
import time


def note(what: str) -> None:
    """Write down that something happened now."""
    journal = os.open(os.environ["TEST_JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(journal, f"{what} {time.monotonic_ns()}\n".encode())
    finally:
        os.close(journal)
