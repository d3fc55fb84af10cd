"""The one door to redis-py: a client that fails fast, and what its failures are called."""

from __future__ import annotations

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

#: What redis-py raises when the server, or the network before it, is not there. A client of a
#: Cluster has an error of its own, outside the tree, for one that it cannot reach.
FAILURES = (RedisError, RedisClusterException, OSError)


class BusUnavailable(Exception):
    """Redis did not answer."""


class RedisClient(Protocol):
    """What is asked of a ready client: ``Redis``, a Sentinel's master, ``RedisCluster``."""

    def publish(self, channel: str, message: str) -> Any:
        """Publish a message."""

    def pubsub(self) -> Any:
        """Return a publish and subscribe connection."""

    def pipeline(self, *, transaction: bool = True) -> Any:
        """Return a pipeline."""

    def time(self) -> Any:
        """Return the server's clock: seconds since the epoch, and microseconds."""


class SharedClient:
    """The client of one application in one process, made when it is first asked for.

    :ivar location: where Redis is, without a password
    """

    def __init__(self, config: Config, given: RedisClient | None = None) -> None:
        """Connect to nothing yet.

        :param given: a ready client to use in place of the configured address
        :raises ConfigError: redis-py cannot make anything of the URL
        """
        self.location = config.redis_location if given is None else f"<{type(given).__name__}>"
        if given is None and config.redis_url is not None:
            _check_url(config)
        self._config = config
        self._given = given
        self._made: RedisClient | None = None

    def get(self) -> RedisClient:
        """Return the client."""
        if self._given is not None:
            return self._given
        if self._made is None:
            self._made = _make_client(self._config)
        return self._made

    def after_fork(self) -> None:
        """Leave the parent's sockets to the parent; a ready client's pool sees to it by itself."""
        self._made = None


def _make_client(config: Config) -> RedisClient:
    """Return a client that fails fast: whoever uses it has a back-off of its own."""
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
    """Find out at start, not at the first change, whether redis-py takes the URL.

    :raises ConfigError: it does not
    """
    client: Any = _make_client
    try:
        client(config).connection_pool.make_connection()  # an object; it does not connect
    except (RedisError, TypeError, ValueError) as error:
        why = redact_url(reason(error)).rstrip(".")
        message = (
            f"WAFFLE_REDIS_URL = {config.redis_location!r}: {why}. Leave out what redis-py does "
            "not know, or correct it."
        )
        raise ConfigError(message, key="WAFFLE_REDIS_URL", value=config.redis_location) from None


def reason(error: BaseException) -> str:
    """Return an error of redis-py in one line; it names the address, never the password."""
    return " ".join(str(error).split()) or type(error).__name__
