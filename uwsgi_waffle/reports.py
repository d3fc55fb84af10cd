"""Hosts reporting to each other through Redis: who has which revision, never a value.

Each host keeps one key, which expires, and is a member of one set. The age of a report is told by
what is left of its key's life, so by Redis's clock alone. A host that goes without a word is named
as silent for :data:`FORGET_SECONDS`, then forgotten.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ._redis import FAILURES, BusUnavailable, SharedClient, reason
from .config import Config
from .fleet import HostStatus, decode_host, encode_host

__all__ = ["REPORT_SECONDS", "SILENT_SECONDS", "HostReports"]

#: Seconds between two reports of a host on which nothing happens.
REPORT_SECONDS = 1.0
#: Seconds without a report after which a host counts as cut off.
SILENT_SECONDS = 4.0
#: Seconds after which a host that went without a word is forgotten.
FORGET_SECONDS = 300


class HostReports:
    """The reports of all hosts of one application."""

    def __init__(self, config: Config, client: SharedClient) -> None:
        self._client = client
        # The braces keep all keys of an application on one node of a Redis Cluster.
        self._prefix = f"{{{config.redis_channel}:{config.namespace}}}"
        self._members = f"{self._prefix}:hosts"

    def put(self, host: HostStatus) -> None:
        """Report a host.

        :raises BusUnavailable: Redis did not answer
        """
        with _translated():
            pipeline = self._client.get().pipeline(transaction=False)
            pipeline.set(self._key(host.id), encode_host(host), px=FORGET_SECONDS * 1000)
            pipeline.sadd(self._members, host.id)
            pipeline.execute()

    def retire(self, host_id: str) -> None:
        """Say goodbye for a host whose last listener ends.

        :raises BusUnavailable: Redis did not answer
        """
        with _translated():
            pipeline = self._client.get().pipeline(transaction=False)
            pipeline.delete(self._key(host_id))
            pipeline.srem(self._members, host_id)
            pipeline.execute()

    def all(self) -> list[HostStatus]:
        """Return every host that reported and is not forgotten, by name.

        :raises BusUnavailable: Redis did not answer
        """
        with _translated():
            client = self._client.get()
            members = client.pipeline(transaction=False).smembers(self._members).execute()[0]
            ids = sorted(
                m.decode("utf-8", "replace") if isinstance(m, bytes) else m for m in members
            )
            pipeline = client.pipeline(transaction=False)
            for host_id in ids:
                pipeline.get(self._key(host_id)).pttl(self._key(host_id))
            answers = pipeline.execute() if ids else []
        hosts = []
        for report, life_ms in zip(answers[::2], answers[1::2], strict=True):
            with contextlib.suppress(ValueError):  # expired, or put there by somebody else
                age = FORGET_SECONDS - life_ms / 1000
                hosts.append(decode_host(report, max(age, 0.0), SILENT_SECONDS))
        self._forget(ids, answers[::2])
        return sorted(hosts, key=lambda host: (host.name, host.id))

    def _forget(self, ids: list[str], reports: list[object]) -> None:
        """Take expired hosts out of the set."""
        expired = [host_id for host_id, report in zip(ids, reports, strict=True) if report is None]
        if expired:
            with _translated():
                pipeline = self._client.get().pipeline(transaction=False)
                pipeline.srem(self._members, *expired)
                pipeline.execute()

    def _key(self, host_id: str) -> str:
        return f"{self._prefix}:host:{host_id}"


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Raise :class:`BusUnavailable` for what redis-py raises."""
    try:
        yield
    except FAILURES as error:
        raise BusUnavailable(reason(error)) from error
