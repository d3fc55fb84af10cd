"""Reports of hosts to each other through Redis: which state each process serves, never a value.

All hosts of a database share two hashes: short summaries, which ``wait`` reads at any number of
hosts, and all processes in full, which ``status`` shows. Each entry is signed, and dated by Redis's
clock. A summary is published as well, so that ``wait`` need not look again.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter
from pydantic_core import from_json

from uwsgi_waffle.config import Config
from uwsgi_waffle.sql.hosts import FORGET_SECONDS
from uwsgi_waffle.values.position import NOWHERE, Position, Revision

from .client import BusUnavailable, SharedClient, failures, reason
from .signing import is_signed, sign

if TYPE_CHECKING:
    from .fleet import HostStatus

__all__ = ["REPORT_SECONDS", "SILENT_SECONDS", "HostReports", "Reported"]

#: Seconds between two reports of a host on which nothing happens.
REPORT_SECONDS = 1.0
#: Seconds without a report after which a host counts as cut off.
SILENT_SECONDS = 4.0
#: Seconds after which Redis is asked for its time, where no other answer brought it along.
ASK_TIME_SECONDS = 10.0
#: Most processes named in a summary; the rest are counted.
MAX_EXCEPTIONS = 8
#: Largest entry that is read, and largest hash: 1,024 processes, and thousands of hosts.
MAX_ENTRY_BYTES = 1024 * 1024
MAX_HASH_BYTES = 64 * 1024 * 1024
#: Largest of the other keys, which hold a few short entries each.
MAX_SET_BYTES = 64 * 1024
#: Most published summaries received in one go, so that a flood cannot keep `wait` past its time.
MAX_AT_ONCE = 1_000
#: Highest positions that are kept for the next writer, see :meth:`HostReports.highest`.
_KEPT_POSITIONS = 8
#: Other databases that are looked at.
_KNOWN_LINEAGES = 16

_is_lineage = re.compile("[0-9a-f]{16}").fullmatch


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
        self, config: Config, client: SharedClient, keys: Callable[[str], Sequence[str]]
    ) -> None:
        """Connect to nothing yet.

        :param keys: returns what signs and verifies the reports of a lineage
        """
        self._client = client
        self._keys = keys
        # The braces keep all keys of an application on one node of a Redis Cluster.
        self._prefix = f"{{{config.redis_channel}:{config.namespace}}}"
        self._lineages = f"{self._prefix}:lineages"
        self._ahead_seconds = 0.0  # Redis's clock of our monotonic one, by the last answer
        self._answered_at = -ASK_TIME_SECONDS
        if config.multiproc:
            _hosts(), _positions()  # now, as nothing is shared that is made after a fork

    def put(self, host: HostStatus, *, left: Sequence[str] = ()) -> None:
        """Report a host; nothing is reported before it has a position.

        :param left: lineages where the host was before, whose reports of it end with this one
        :raises BusUnavailable: Redis did not answer, or did not accept it
        """
        lineage = host.position.lineage
        keys = self._keys(lineage)
        if not keys or not lineage:
            return
        with _translated():
            seconds = self._redis_seconds()
            summary = _seal(keys, encode_host(replace(host, processes=()), seconds))
            detail = _seal(keys, encode_host(host, seconds))
            top = _seal(keys, json.dumps([lineage, host.position.revision, host.position.stamp]))
            pipeline = self._pipeline()
            self._remove(pipeline, [name for name in left if name != lineage], [host.id])
            pipeline.hset(self._key(lineage, "hosts"), host.id, summary)
            pipeline.hset(self._key(lineage, "details"), host.id, detail)
            pipeline.zadd(self._key(lineage, "highest"), {top: host.revision})
            pipeline.zremrangebyrank(self._key(lineage, "highest"), 0, -_KEPT_POSITIONS - 1)
            pipeline.zadd(self._lineages, {lineage: seconds})
            pipeline.zremrangebyscore(self._lineages, "-inf", seconds - FORGET_SECONDS)
            for name in ("hosts", "details"):
                pipeline.expire(self._key(lineage, name), FORGET_SECONDS)
            channel = self.channel(lineage)
            if self._client.is_cluster:
                pipeline.execute()
                self._client.get().publish(channel, summary)
            else:
                pipeline.publish(channel, summary)
                self._execute(pipeline)

    def retire(self, host_id: str, lineage: str) -> None:
        """Remove a host whose last process ends, or that is gone for good.

        :raises BusUnavailable: Redis did not answer
        """
        with _translated():
            pipeline = self._pipeline()
            self._remove(pipeline, [lineage], [host_id])
            pipeline.execute()

    def read(self, lineage: str, *, before: Sequence[str] = (), in_full: bool = False) -> Reported:
        """Return what Redis holds of the hosts of a database, in a fixed number of commands.

        :param before: lineages that the database had before, where some hosts may still be
        :param in_full: with the processes of each host
        :raises BusUnavailable: Redis did not answer, or holds more than hosts ever report
        """
        wanted = [name for name in dict.fromkeys((*before, lineage)) if name]
        kind = "details" if in_full else "hosts"
        with _translated():
            self._check_size(MAX_HASH_BYTES, *(self._key(name, kind) for name in wanted))
            self._check_size(MAX_SET_BYTES, self._lineages)
            pipeline = self._pipeline()
            for name in wanted:
                pipeline.hgetall(self._key(name, kind))
            pipeline.zrevrange(self._lineages, 0, _KNOWN_LINEAGES - 1, withscores=True)
            (*hashes, lineages), now = self._execute(pipeline)
        hosts: dict[str, HostStatus] = {}
        ignored = 0
        for name, entries in zip(wanted, hashes, strict=True):
            keys, forgotten = self._keys(name), []
            for host_id, entry in entries.items():
                host = decode_host(keys, entry, now)
                if host is None or host.id != _text(host_id):
                    ignored += 1
                elif host.reported_seconds_ago > FORGET_SECONDS:
                    forgotten.append(host.id)
                elif host.id not in hosts or hosts[host.id].reported_at < host.reported_at:
                    hosts[host.id] = host  # of two lineages, the one that it reported last
            if forgotten:
                with _translated():
                    self._remove(pipeline, [name], forgotten)
                    pipeline.execute()
        others = tuple(
            name
            for name in (_text(found) for found, at in lineages if abs(now - at) < SILENT_SECONDS)
            if name not in wanted and _is_lineage(name)
        )
        by_name = sorted(hosts.values(), key=lambda host: (host.name, host.id))
        return Reported(tuple(by_name), ignored, others)

    def highest(self, lineage: str) -> Position:
        """Return the highest position that any host has reported of a lineage.

        :raises BusUnavailable: Redis did not answer
        """
        key = self._key(lineage, "highest")
        with _translated():
            self._check_size(MAX_SET_BYTES, key)
            pipeline = self._pipeline()
            pipeline.zrevrange(key, 0, _KEPT_POSITIONS - 1)
            (entries,) = pipeline.execute()
        found = NOWHERE
        for entry in entries:
            position = decode_position(self._keys(lineage), entry, lineage)
            if position.revision > found.revision:
                found = position
        return found

    @contextlib.contextmanager
    def acknowledgements(self, lineage: str) -> Iterator[Callable[[float], list[HostStatus]]]:
        """Yield a function that waits so many seconds at most for summaries that hosts publish.

        :raises BusUnavailable: Redis did not answer
        """
        with _translated(), contextlib.ExitStack() as stack:
            pubsub = self._client.pubsub()
            stack.callback(self._client.close_pubsub, pubsub)
            pubsub.subscribe(self.channel(lineage))

            def receive(timeout_seconds: float) -> list[HostStatus]:
                hosts = []
                with _translated():
                    for _ in range(MAX_AT_ONCE):
                        message = pubsub.get_message(timeout=max(timeout_seconds, 0.0))
                        if message is None:
                            break
                        timeout_seconds = 0.0
                        if message["type"] == "message":
                            now, keys = self._redis_seconds(), self._keys(lineage)
                            host = decode_host(keys, message["data"], now)
                            hosts += [] if host is None or host.is_silent else [host]
                return hosts

            yield receive

    def channel(self, lineage: str) -> str:
        """Return the channel on which the hosts of a database publish their summaries."""
        return self._key(lineage, "reports")

    def _key(self, lineage: str, name: str) -> str:
        return f"{self._prefix}:{lineage}:{name}"

    def _pipeline(self) -> Any:
        return self._client.get().pipeline(transaction=False)

    def _execute(self, pipeline: Any) -> tuple[list[Any], float]:
        """Run a pipeline, and return the answers and the time by Redis's clock."""
        if self._client.is_cluster:
            return list(pipeline.execute()), self._ask_time()
        pipeline.time()
        asked_at = time.monotonic()
        *answers, answer = pipeline.execute()
        return answers, self._note_time(answer, asked_at)

    def _redis_seconds(self) -> float:
        """Return the time by Redis's clock, by its last answer where that is recent."""
        now = time.monotonic()
        is_recent = now - self._answered_at < ASK_TIME_SECONDS
        return now + self._ahead_seconds if is_recent else self._ask_time()

    def _ask_time(self) -> float:
        client, asked_at = self._client, time.monotonic()
        return self._note_time(client.get().time(**client.at(self._lineages)), asked_at)

    def _note_time(self, answer: tuple[int, int], asked_at: float) -> float:
        """Note how far Redis's clock is ahead of ours, and return its time."""
        redis_seconds, now = answer[0] + answer[1] / 1e6, time.monotonic()
        self._ahead_seconds = redis_seconds - (asked_at + now) / 2
        self._answered_at = now  # second: another thread may read both meanwhile
        return redis_seconds

    def _remove(self, pipeline: Any, lineages: Sequence[str], host_ids: Sequence[str]) -> None:
        for lineage in lineages:
            for name in ("hosts", "details"):
                pipeline.hdel(self._key(lineage, name), *host_ids)

    def _check_size(self, max_bytes: int, *keys: str) -> None:
        """Refuse to read what is larger than all reports can be.

        :raises BusUnavailable: a key holds more
        """
        pipeline = self._pipeline()
        for key in keys:
            pipeline.memory_usage(key, samples=0)
        # An error is that of an ACL which does not allow the command: then the key is just read.
        for key, size in zip(keys, pipeline.execute(raise_on_error=False), strict=True):
            if isinstance(size, int) and size > max_bytes:
                message = (
                    f"the key {key} holds {size:,} bytes, more than hosts report: another program "
                    f"writes to it. Delete it: `redis-cli DEL '{key}'`"
                )
                raise BusUnavailable(message)


@cache
def _hosts() -> TypeAdapter[HostStatus]:
    from .fleet import HostStatus

    return TypeAdapter(HostStatus)


@cache
def _positions() -> TypeAdapter[tuple[str, Revision, str]]:
    return TypeAdapter(tuple[str, Revision, str])


def encode_host(host: HostStatus, seconds: float) -> str:
    """Return a host as it is reported at *seconds* by Redis's clock; never a value."""
    reported = replace(host, exceptions=host.exceptions[:MAX_EXCEPTIONS], reported_at=seconds)
    return _hosts().dump_json(reported, exclude_defaults=True).decode()


def decode_host(keys: Sequence[str], entry: object, now: float) -> HostStatus | None:
    """Return the host that a signed entry describes, ``None`` where it is forged or malformed.

    :param now: the time by Redis's clock
    """
    text = _open(keys, entry)
    if text is None:
        return None
    try:
        fields = from_json(text, allow_inf_nan=False)
        # Where Redis's clock was set back, what seems to come from the future is as old as early.
        age = abs(now - fields["reported_at"])
        fields.update(reported_seconds_ago=age, is_silent=age > SILENT_SECONDS)
        return _hosts().validate_python(fields)
    except (ValueError, TypeError, LookupError):  # pydantic's own among them
        return None


def decode_position(keys: Sequence[str], entry: object, lineage: str) -> Position:
    """Return the position that a signed entry names, nowhere if it is of another lineage."""
    text = _open(keys, entry)
    if text is None:
        return NOWHERE
    try:
        position = Position(*_positions().validate_json(text, strict=True))
    except ValueError:
        return NOWHERE
    return position if position.lineage == lineage else NOWHERE


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
    except failures() as error:
        raise BusUnavailable(reason(error)) from error
