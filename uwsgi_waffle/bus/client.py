"""The only module that imports redis-py: a client that fails fast, and its kinds of failure."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any, Protocol

import redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisClusterException, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from uwsgi_waffle.config import Config, redact_url
from uwsgi_waffle.errors import ConfigError

__all__ = [
    "ANSWER_SECONDS",
    "FAILURES",
    "BusUnavailable",
    "RedisClient",
    "RedisConnectionError",
    "RedisTimeoutError",
    "SharedClient",
    "reason",
]

#: Seconds to wait for Redis to take a connection or to answer; an update waits no longer than this.
ANSWER_SECONDS = 1.0

#: What redis-py raises where the server, or the network before it, cannot be reached. For a Cluster
#: it has another error, outside the tree of the rest.
FAILURES = (RedisError, RedisClusterException, OSError)


class BusUnavailable(Exception):
    """Redis did not answer, or did not accept a command."""


class RedisClient(Protocol):
    """What a ready client needs: ``Redis``, a Sentinel's master, ``RedisCluster``."""

    def publish(self, channel: str, message: str) -> Any:
        """Publish a message."""

    def pubsub(self) -> Any:
        """Return a publish and subscribe connection."""

    def pipeline(self, *, transaction: bool = True) -> Any:
        """Return a pipeline."""

    def time(self, **options: Any) -> Any:
        """Return the server's clock: seconds since the epoch, and microseconds."""


class SharedClient:
    """The client of one application in one process, made when it is first needed.

    :ivar location: where Redis is, without a password
    """

    def __init__(self, config: Config, given: RedisClient | None = None) -> None:
        """Connect to nothing yet.

        :param given: a ready client to use in place of the configured address
        :raises ConfigError: redis-py does not accept the URL
        """
        self.location = config.redis_location if given is None else f"<{type(given).__name__}>"
        if given is None and config.redis_url is not None:
            _check_url(config)
        self._config = config
        self._given = given
        self._made: dict[str, RedisClient] = {}
        self._pubsubs: list[Any] = []

    def get(self) -> RedisClient:
        """Return the client."""
        if self._given is not None:
            return self._given
        if not self._made:
            # Two threads may come here at once. The one client that both then use must stay: when
            # a client of redis-py is collected, it closes the connections that it has handed out.
            self._made.setdefault("client", _make_client(self._config))
        return self._made["client"]

    @property
    def is_cluster(self) -> bool:
        """Whether it is a client of a Redis Cluster, whose pipelines do not take every command."""
        return hasattr(self.get(), "get_node_from_key")

    def at(self, key: str) -> dict[str, Any]:
        """Return the option that sends a command without a key to the node which holds *key*.

        In a Cluster each node has a clock of its own.
        """
        client: Any = self.get()
        return {"target_nodes": client.get_node_from_key(key)} if self.is_cluster else {}

    def pubsub(self) -> Any:
        """Return a new publish and subscribe connection; :meth:`close_pubsub` closes it."""
        pubsub = self.get().pubsub()
        self._pubsubs.append(pubsub)
        return pubsub

    def close_pubsub(self, pubsub: Any) -> None:
        """Close a connection of :meth:`pubsub`, if it is one; a broken one raises nothing."""
        if pubsub in self._pubsubs:
            self._pubsubs.remove(pubsub)
            with suppress(*FAILURES):
                pubsub.close()

    def after_fork(self) -> None:
        """Leave the parent's sockets to the parent; the pool of a ready client does so by itself.

        What the parent made stays referenced: redis-py's finalisers take locks, which a thread of
        the parent may have held at the fork, so to run one here could wait for ever.
        """
        _made_before_fork.append((self._made, self._pubsubs))
        self._made, self._pubsubs = {}, []


#: Clients and connections of a parent process, which its children never touch again.
_made_before_fork: list[object] = []


def _make_client(config: Config) -> RedisClient:
    """Return a client that fails fast: each user of it has a back-off."""
    options: dict[str, Any] = {
        "socket_timeout": ANSWER_SECONDS,
        "socket_connect_timeout": ANSWER_SECONDS,
        "socket_keepalive": True,
        "retry": Retry(NoBackoff(), 0),
        "client_name": "uwsgi_waffle",
    }
    if config.redis_url is None:
        return redis.Redis(host=config.redis_host, port=config.redis_port, **options)
    if config.redis_url.startswith("unix:"):
        del options["socket_keepalive"]
    return redis.Redis.from_url(config.redis_url, **options)


def _check_url(config: Config) -> None:
    """Find out at the start, not at the first change, whether redis-py accepts the URL.

    :raises ConfigError: it does not
    """
    client: Any = _make_client
    try:
        client(config).connection_pool.make_connection()  # an object; it does not connect
    except (RedisError, TypeError, ValueError) as error:
        why = redact_url(reason(error)).rstrip(".")
        message = (
            f"WAFFLE_REDIS_URL = {config.redis_location!r}: {why}. Remove or correct the part that "
            "redis-py does not accept."
        )
        raise ConfigError(message, key="WAFFLE_REDIS_URL", value=config.redis_location) from None


def reason(error: BaseException) -> str:
    """Return an error of redis-py in one line; it names the address, never the password.

    That of a pipeline repeats the whole command, which is not what people look for.
    """
    text = re.sub(r"(?s)^Command # \d+ \(.*\) of pipeline caused error: ", "", str(error))
    return " ".join(text.split()) or type(error).__name__
