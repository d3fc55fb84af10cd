"""The least that can move a change: a mule that runs this file hears of it and wakes all workers.

It is subscribed to Redis, reads the rows from SQL, copies them into memory which the workers map,
and raises a signal, at which each worker decodes and notes them. `TEST_JOURNAL` is the file of
notes, `TEST_MAP` that of the memory, `TEST_REDIS` and `TEST_DATABASE` are URLs.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import redis
import sqlalchemy as sa
import uwsgi

from tests.apps.notes import note

SIGNAL = 18
CHANNEL = "chain"
LENGTH = struct.Struct("Q")
MAP_BYTES = 1 << 20
ROWS = sa.text("SELECT n, v FROM floor")


def mapped() -> mmap.mmap:
    """Return the memory that mule and workers share."""
    path = Path(os.environ["TEST_MAP"])
    with path.open("r+b") as file:
        return mmap.mmap(file.fileno(), MAP_BYTES)


def app(_environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer anything."""
    start_response("200 OK", [])
    return [b"hello"]


def decode(_signal: int) -> None:
    """Do what a worker does."""
    (length,) = LENGTH.unpack_from(memory)
    json.loads(memory[LENGTH.size : LENGTH.size + length])
    note("ran")


def listen() -> None:
    """Do what the mule does."""
    engine = sa.create_engine(os.environ["TEST_DATABASE"])
    client = redis.Redis.from_url(os.environ["TEST_REDIS"])
    pubsub = client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
    pubsub.subscribe(CHANNEL)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for _ in pubsub.listen():
            rows = connection.execute(ROWS).all()
            text = json.dumps([list(row) for row in rows]).encode()
            memory[LENGTH.size : LENGTH.size + len(text)] = text
            LENGTH.pack_into(memory, 0, len(text))
            uwsgi.signal(SIGNAL)


memory = mapped()
if __name__ == "__main__":
    listen()
else:
    uwsgi.register_signal(SIGNAL, "workers", decode)
