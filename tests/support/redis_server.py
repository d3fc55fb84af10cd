"""A Redis that a test starts, breaks and ends."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlencode

import redis

from tests.support.availability import require_program
from tests.support.certificates import write_certificates
from tests.support.processes import LocalServer
from tests.support.waiting import SOON_SECONDS, wait_until


class RedisServer(LocalServer):
    """A Redis that keeps nothing on disk, on a port, a Unix socket or behind TLS."""

    name: ClassVar[str] = "redis"

    def __init__(
        self,
        *,
        password: str | None = None,
        unix_socket: bool = False,
        tls: bool = False,
        extra_options: Sequence[str] = (),
        program: str | None = None,
    ) -> None:
        """Choose how the server is reached; *extra_options* are appended to its command line.

        :param program: another server than ``$REDIS_SERVER``, or ``redis-server``
        """
        self._program = program or require_program(os.environ.get("REDIS_SERVER", "redis-server"))
        super().__init__()
        self.password = password
        self.unix_socket: Path | None = self.directory / "redis.sock" if unix_socket else None
        self.tls = tls
        self._extra_options = list(extra_options)

    def prepare(self) -> None:
        """Make the certificates, anew at each start of a TLS server."""
        if self.tls:
            write_certificates(self.directory)

    def command(self) -> list[str]:
        """Return the command that runs the server in the foreground."""
        options = ["--save", "", "--appendonly", "no", "--bind", "127.0.0.1"]
        options += ["--dir", str(self.directory)]
        options += ["--port", "0" if self.tls or self.unix_socket else str(self.port)]
        if self.unix_socket:
            options += ["--unixsocket", str(self.unix_socket)]
        if self.tls:
            options += ["--tls-port", str(self.port), "--tls-auth-clients", "no"]
            options += ["--tls-ca-cert-file", str(self.directory / "ca.crt")]
            options += ["--tls-cert-file", str(self.directory / "server.crt")]
            options += ["--tls-key-file", str(self.directory / "server.key")]
        if self.password is not None:
            options += ["--requirepass", self.password]
        return [self._program, *options, *self._extra_options]

    @property
    def url(self) -> str:
        """The URL of this server, with everything that a client needs."""
        user = "" if self.password is None else f":{self.password}@"
        if self.unix_socket:
            return f"unix://{user}{self.unix_socket}?db=0"
        if self.tls:
            query = urlencode({"ssl_ca_certs": str(self.directory / "ca.crt")})
            return f"rediss://{user}127.0.0.1:{self.port}/0?{query}"
        return f"redis://{user}127.0.0.1:{self.port}/0"

    def client(self) -> redis.Redis:
        """Return a new client of this server; close it, or use it as a context manager."""
        return redis.Redis.from_url(self.url, socket_timeout=5.0, socket_connect_timeout=5.0)

    def answers(self) -> bool:
        """Whether the server answers a PING."""
        try:
            with self.client() as client:
                return bool(client.ping())
        except (redis.ConnectionError, redis.TimeoutError):
            return False

    def subscribers(self, channel: str = "waffleconf") -> int:
        """Return how many connections listen to *channel*."""
        with self.client() as client:
            counts = dict(client.pubsub_numsub(channel))
        return int(counts[channel.encode()])

    def wait_for_subscribers(self, count: int, channel: str = "waffleconf") -> None:
        """Return when so many connections listen to *channel*."""
        wait_until(
            lambda: self.subscribers(channel) == count, SOON_SECONDS, f"{count} listen to Redis"
        )
