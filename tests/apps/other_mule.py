"""A mule that the application uses for something else."""

from __future__ import annotations

import os

import uwsgi

print(f"the other mule runs in {os.getpid()}", flush=True)  # noqa: T201  goes to the log


def main() -> None:
    """Take messages for ever."""
    while True:
        message = uwsgi.mule_get_msg()
        print(f"the other mule got {message!r}", flush=True)  # noqa: T201  goes to the log


if uwsgi.mule_id():
    main()
