"""Writing down when something happened, in a file that many processes share."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path


def note(what: str) -> None:
    """Write down that something happened now."""
    journal = os.open(os.environ["TEST_JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(journal, f"{what} {time.monotonic_ns()}\n".encode())
    finally:
        os.close(journal)


def keep_journal(old: int, new: int) -> None:
    """Write down from which value to which this process was called back, and when."""
    journal = os.environ.get("TEST_JOURNAL")
    if journal is None:
        return
    entry = {"pid": os.getpid(), "old": old, "new": new, "at_ns": time.monotonic_ns()}
    # One write at the end of the file: those of other processes cannot come in between.
    descriptor = os.open(Path(journal), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, f"{json.dumps(entry)}\n".encode())
    finally:
        os.close(descriptor)
    time.sleep(float(os.environ.get("TEST_CALLBACK_SECONDS", "0")))
