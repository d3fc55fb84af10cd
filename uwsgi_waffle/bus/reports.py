"""Hosts reporting to each other through Redis: who serves which state, never a value.

All hosts of a database share two hashes: short summaries, which ``wait`` reads at any number of
hosts, and the processes in full, which ``status`` shows. Each entry is signed, and says when it was
made by Redis's clock. A summary is published as well, so that who waits need not look again.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace

from pydantic import TypeAdapter, ValidationError

from uwsgi_waffle.config import Config
from uwsgi_waffle.host.processes import ProcessSlot
from uwsgi_waffle.values.position import NOWHERE, Position

from .client import FAILURES, BusUnavailable, SharedClient, reason
from .fleet import HostStatus
from .signing import is_signed, sign

__all__ = ["FORGET_SECONDS", "REPORT_SECONDS", "SILENT_SECONDS", "HostReports", "Reported"]

#: Seconds between two reports of a host on which nothing happens.
REPORT_SECONDS = 1.0
#: Seconds without a report after which a host counts as cut off.
SILENT_SECONDS = 4.0
#: Seconds after which a host that did not say goodbye is forgotten.
FORGET_SECONDS = 300
#: Most processes named in a summary; the rest are counted.
MAX_EXCEPTIONS = 8
#: Largest entry that is looked at, and largest hash: 1,024 processes, and thousands of hosts.
MAX_ENTRY_BYTES = 512 * 1024
MAX_HASH_BYTES = 64 * 1024 * 1024
#: Highest positions that are kept for the next writer, see :meth:`HostReports.highest`.
_KEPT_POSITIONS = 8


@dataclass(frozen=True, slots=True)
class Reported:
    """What Redis holds of the hosts of our database.

    :ivar hosts: every host that reported and is not forgotten, by name
    :ivar ignored: how many entries were malformed or forged
    :ivar other_lineages: databases that hosts under our channel and namespace have reported lately
    """

    hosts: tuple[HostStatus, ...] = ()
    ignored: int = 0
    other_lineages: tuple[str, ...] = ()


class HostReports:
    """The reports of all hosts of one application."""

    def __init__(
        self, config: Config, client: SharedClient, keys: Callable[[], Sequence[str]]
    ) -> None:
        """Connect to nothing yet.

        :param keys: returns what signs and verifies at the moment
        """
        self._client = client
        self._keys = keys
        # The braces keep all keys of an application on one node of a Redis Cluster.
        self._prefix = f"{{{config.redis_channel}:{config.namespace}}}"
        self._lineages = f"{self._prefix}:lineages"

    def put(self, host: HostStatus) -> None:
        """Report a host; nothing is reported before it has a position.

        :raises BusUnavailable: Redis did not answer, or did not accept it
        """
        keys = self._keys()
        lineage = host.position.lineage
        if not keys or not lineage:
            return
        with _translated():
            seconds = self._redis_seconds()
            summary = _seal(keys, encode_host(replace(host, processes=()), seconds))
            detail = _seal(keys, encode_host(host, seconds))
            top = _seal(keys, json.dumps([lineage, host.position.revision, host.position.stamp]))
            pipeline = self._client.get().pipeline(transaction=False)
            pipeline.hset(self._key(lineage, "hosts"), host.id, summary)
            pipeline.hset(self._key(lineage, "details"), host.id, detail)
            for name in ("hosts", "details"):
                pipeline.expire(self._key(lineage, name), FORGET_SECONDS)
            pipeline.zadd(self._key(lineage, "highest"), {top: host.revision})
            pipeline.zremrangebyrank(self._key(lineage, "highest"), 0, -_KEPT_POSITIONS - 1)
            pipeline.zadd(self._lineages, {lineage: seconds})
            pipeline.zremrangebyscore(self._lineages, "-inf", seconds - FORGET_SECONDS)
            pipeline.execute()
            self._client.get().publish(self.channel(lineage), summary)

    def retire(self, host_id: str, lineage: str) -> None:
        """Remove a host whose last process ends, or that is gone for good.

        :raises BusUnavailable: Redis did not answer
        """
        with _translated():
            pipeline = self._client.get().pipeline(transaction=False)
            pipeline.hdel(self._key(lineage, "hosts"), host_id)
            pipeline.hdel(self._key(lineage, "details"), host_id)
            pipeline.execute()

    def read(self, lineage: str, *, in_full: bool = False) -> Reported:
        """Return what Redis holds of the hosts of a database, in a fixed number of commands.

        :param in_full: with the processes of each host
        :raises BusUnavailable: Redis did not answer, or holds more than hosts ever report
        """
        key = self._key(lineage, "details" if in_full else "hosts")
        with _translated():
            self._check_size(key)
            pipeline = self._client.get().pipeline(transaction=False)
            pipeline.hgetall(key)
            pipeline.time()
            pipeline.zrevrange(self._lineages, 0, 15, withscores=True)
            entries, (seconds, microseconds), lineages = pipeline.execute()
        now = seconds + microseconds / 1e6
        keys = self._keys()
        hosts, ignored, forgotten = [], 0, []
        for host_id, entry in entries.items():
            host = decode_host(keys, entry, now)
            if host is None or host.id != _text(host_id):
                ignored += 1
            elif host.reported_seconds_ago > FORGET_SECONDS:
                forgotten.append(host.id)
            else:
                hosts.append(host)
        for host_id in forgotten:
            self.retire(host_id, lineage)
        others = tuple(
            name
            for name in (_text(found) for found, at in lineages if now - at < SILENT_SECONDS)
            if name != lineage and len(name) == len(lineage or "0" * 16)
        )
        by_name = sorted(hosts, key=lambda host: (host.name, host.id))
        return Reported(tuple(by_name), ignored, others)

    def highest(self, lineage: str) -> Position:
        """Return the highest position that any host has reported of a lineage.

        :raises BusUnavailable: Redis did not answer
        """
        with _translated():
            pipeline = self._client.get().pipeline(transaction=False)
            pipeline.zrevrange(self._key(lineage, "highest"), 0, _KEPT_POSITIONS - 1)
            entries = pipeline.execute()[0]
        found = NOWHERE
        for entry in entries:
            text = _open(self._keys(), entry)
            position = Position(*json.loads(text)) if text is not None else NOWHERE
            if position.lineage == lineage and position.revision > found.revision:
                found = position
        return found

    @contextlib.contextmanager
    def acknowledgements(self, lineage: str) -> Iterator[Callable[[float], list[HostStatus]]]:
        """Yield a function that waits so many seconds at most for summaries that hosts publish.

        :raises BusUnavailable: Redis did not answer
        """
        with _translated(), contextlib.closing(self._client.get().pubsub()) as pubsub:
            pubsub.subscribe(self.channel(lineage))

            def receive(timeout_seconds: float) -> list[HostStatus]:
                hosts = []
                with _translated():
                    message = pubsub.get_message(timeout=max(timeout_seconds, 0.0))
                    while message is not None:
                        if message["type"] == "message":
                            host = decode_host(self._keys(), message["data"], None)
                            hosts += [] if host is None else [host]
                        message = pubsub.get_message(timeout=0)
                return hosts

            yield receive

    def channel(self, lineage: str) -> str:
        """Return the channel on which the hosts of a database publish their summaries."""
        return self._key(lineage, "reports")

    def _key(self, lineage: str, name: str) -> str:
        return f"{self._prefix}:{lineage}:{name}"

    def _redis_seconds(self) -> float:
        seconds, microseconds = self._client.get().time()
        return float(seconds + microseconds / 1e6)

    def _check_size(self, key: str) -> None:
        """Refuse to read a hash that is larger than all hosts' reports can be.

        :raises BusUnavailable: it is
        """
        pipeline = self._client.get().pipeline(transaction=False)
        pipeline.memory_usage(key, samples=0)
        size = pipeline.execute(raise_on_error=False)[0]
        if isinstance(size, int) and size > MAX_HASH_BYTES:
            message = (
                f"the key {key} holds {size:,} bytes, more than hosts report: something else "
                f"writes to it. Delete it: `redis-cli DEL '{key}'`"
            )
            raise BusUnavailable(message)


_processes: TypeAdapter[tuple[ProcessSlot, ...]] = TypeAdapter(tuple[ProcessSlot, ...])
_host: TypeAdapter[HostStatus] = TypeAdapter(HostStatus)


def encode_host(host: HostStatus, seconds: float) -> str:
    """Return a host as it is reported, made at *seconds* by Redis's clock; never a value."""
    fields = asdict(replace(host, exceptions=host.exceptions[:MAX_EXCEPTIONS]))
    fields["reported_seconds_ago"] = seconds
    return json.dumps(fields)


def decode_host(keys: Sequence[str], entry: object, now: float | None) -> HostStatus | None:
    """Return the host that a signed entry describes, ``None`` where it is forged or malformed.

    :param now: Redis's clock; ``None`` for an entry that has just been published
    """
    text = _open(keys, entry)
    if text is None:
        return None
    try:
        host = _host.validate_json(text)
    except ValidationError:
        return None
    age = 0.0 if now is None else max(now - host.reported_seconds_ago, 0.0)
    return replace(host, reported_seconds_ago=age, is_silent=age > SILENT_SECONDS)


def _seal(keys: Sequence[str], text: str) -> str:
    return f"{sign(keys, text)} {text}"


def _open(keys: Sequence[str], entry: object) -> str | None:
    """Return the text of a signed entry, ``None`` where it is not signed by one of the keys."""
    if not isinstance(entry, str | bytes) or len(entry) > MAX_ENTRY_BYTES:
        return None
    signatures, _, text = _text(entry).partition(" ")
    return text if is_signed(keys, text, signatures) else None


def _text(found: str | bytes) -> str:
    return found.decode("utf-8", "replace") if isinstance(found, bytes) else found


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Raise :class:`BusUnavailable` for what redis-py raises."""
    try:
        yield
    except FAILURES as error:
        raise BusUnavailable(reason(error)) from error
