"""Waiting for a condition, under a deadline: the tests' only sleep."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

#: How often a condition is looked at.
LOOK_SECONDS = 0.02
#: Ends a wait for what takes milliseconds, but may take seconds on a busy machine.
SOON_SECONDS = 30.0
#: A poll interval so long that nothing in a test arrives by a poll.
NEVER_SECONDS = 3600


def wait_until(predicate: Callable[[], T], seconds: float, what: str) -> T:
    """Return the first true value of *predicate*, or fail after *seconds* naming *what*.

    An `OSError` (a server that does not answer yet) counts as "not yet", and is the cause of the
    failure if it lasts.
    """
    started_at = time.monotonic()
    last_error: OSError | None = None
    while True:
        try:
            value = predicate()
            last_error = None
        except OSError as error:
            last_error = error
        else:
            if value:
                return value
        waited_seconds = time.monotonic() - started_at
        if waited_seconds > seconds:
            msg = f"after {waited_seconds:.1f} seconds still not: {what}"
            raise AssertionError(msg) from last_error
        time.sleep(LOOK_SECONDS)
