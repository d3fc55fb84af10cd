"""Bare subscriptions, which do nothing with what they receive: what Redis and the machine take."""

from __future__ import annotations

import selectors
import time
from multiprocessing.connection import Connection
from typing import Any

import redis


def receive(url: str, channel: str, count: int, orders: Connection) -> None:
    """Hold so many bare subscriptions, and send when each received; the target of a process."""
    received: list[int] = []
    selector = selectors.DefaultSelector()
    pubsubs = []
    for _ in range(count):
        client = redis.Redis.from_url(url)
        pubsub: Any = client.pubsub()  # type: ignore[no-untyped-call]  # of redis-py
        pubsub.subscribe(channel)
        pubsub.get_message(timeout=5)
        selector.register(pubsub.connection._sock, selectors.EVENT_READ)  # noqa: SLF001
        pubsubs.append((client, pubsub))
    selector.register(orders, selectors.EVENT_READ)
    orders.send("ready")
    while True:
        for key, _ in selector.select():
            if key.fileobj is orders:
                if orders.recv() == "end":
                    return
                orders.send(received)
                received = []
            else:
                key.fileobj.recv(65536)  # type: ignore[union-attr]  # a socket
                received.append(time.monotonic_ns())
