"""The only module that imports redis-py: a client that fails fast, and its kinds of failure.

Where Redis is used, it is imported when an application is set up, which is before a server forks;
elsewhere never, as it takes as long as all of this package, and six megabytes.
"""

from __future__ import annotations

import inspect
import re
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from uwsgi_waffle.config import Config, redact_url
from uwsgi_waffle.errors import ConfigError
from uwsgi_waffle.server import forks
from uwsgi_waffle.server.concurrency import run_beside

__all__ = [
    "ANSWER_SECONDS",
    "BusUnavailable",
    "Patience",
    "RedisClient",
    "SharedClient",
    "failures",
    "is_silence",
    "reason",
]

#: Seconds to wait for Redis to take a connection or to answer; an update waits no longer than this.
ANSWER_SECONDS = 1.0


def failures() -> tuple[type[Exception], ...]:
    """Return what redis-py raises where the server, or the network before it, cannot be reached.

    For a Cluster it has another error, outside the tree of the rest.
    """
    from redis.exceptions import RedisClusterException, RedisError

    return RedisError, RedisClusterException, OSError


def is_silence(error: BaseException | None) -> bool:
    """Return whether an error says that there was no answer in time."""
    from redis.exceptions import TimeoutError as RedisTimeoutError

    return isinstance(error, TimeoutError | RedisTimeoutError)


class BusUnavailable(Exception):
    """Redis did not answer, or did not accept a command."""


Answer = TypeVar("Answer")


class Patience:
    """How long one change still waits for Redis, in however many steps."""

    def __init__(self) -> None:
        self._left_seconds = ANSWER_SECONDS

    def ask(self, question: Callable[[], Answer]) -> Callable[[], Answer]:
        """Ask a question in a thread or greenlet of its own, and return what waits for the answer.

        Redis itself has its timeouts, but neither a name server nor the sum of many round trips.
        An answer that comes too late is not looked at: then what waits raises `TimeoutError`.
        """
        answers: list[Answer] = []
        errors: list[Exception] = []

        def ask() -> None:
            try:
                answers.append(question())
            except Exception as error:  # noqa: BLE001  # raised again, in the thread that asks
                errors.append(error)

        def wait() -> Answer:
            task.wait(max(0.0, self._left_seconds - task.age_seconds()))
            self._left_seconds = max(0.0, self._left_seconds - task.age_seconds())
            if errors:
                raise errors[0]
            if not answers:
                message = f"no answer within {ANSWER_SECONDS:g} s"
                raise TimeoutError(message)
            return answers[0]

        task = run_beside(ask)
        return wait


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


def _check_client(given: object) -> None:
    """Refuse what is no client, and one for asyncio, whose answers are coroutines.

    :raises ConfigError: it is one of these
    """
    needed = ("publish", "pubsub", "pipeline", "time")
    is_client = all(callable(getattr(given, name, None)) for name in needed)
    if not is_client or inspect.iscoroutinefunction(getattr(given, "execute_command", None)):
        kind = type(given)
        message = (
            "redis= takes a ready client of redis-py that is not for asyncio, such as "
            "redis.Redis(...) or sentinel.master_for(...), not a "
            f"{kind.__module__}.{kind.__qualname__}. An address goes to WAFFLE_REDIS_URL."
        )
        raise ConfigError(message)


class SharedClient:
    """The client of one application in one process, made when it is first needed.

    :ivar location: where Redis is, without a password
    """

    def __init__(self, config: Config, given: RedisClient | None = None) -> None:
        """Connect to nothing yet.

        :param given: a ready client to use in place of the configured address
        :raises ConfigError: redis-py does not accept the URL, or what is given is no such client
        """
        if given is not None:
            _check_client(given)
        self.location = config.redis_location if given is None else f"<{type(given).__name__}>"
        if given is None and config.redis_url is not None:
            _check_url(config)
        elif config.multiproc:
            import redis  # noqa: F401  # now, as nothing is shared that is loaded after a fork
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

    def look_for_nodes(self) -> None:
        """Have a client of a Cluster find out which nodes there are; any other does nothing.

        It does so by itself where a command fails, but not where a subscription does, and so would
        look for a node that is gone for ever.
        """
        with suppress(*failures()):
            nodes: Any = getattr(self.get(), "nodes_manager", None)
            if nodes is not None:
                nodes.initialize()

    def pubsub(self) -> Any:
        """Return a new publish and subscribe connection; :meth:`close_pubsub` closes it."""
        pubsub = self.get().pubsub()
        self._pubsubs.append(pubsub)
        return pubsub

    def close_pubsub(self, pubsub: Any) -> None:
        """Close a connection of :meth:`pubsub`, if it is one; a broken one raises nothing."""
        if pubsub in self._pubsubs:
            self._pubsubs.remove(pubsub)
            with suppress(*failures()):
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
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    options: dict[str, Any] = {
        "socket_timeout": ANSWER_SECONDS,
        "socket_connect_timeout": ANSWER_SECONDS,
        "socket_keepalive": True,
        "retry": Retry(NoBackoff(), 0),
        "redis_connect_func": _greet,
    }
    if config.redis_url is None:
        return redis.Redis(host=config.redis_host, port=config.redis_port, **options)
    from . import addresses

    servers = addresses.servers_of(config.redis_url)
    if servers is not None:
        several: RedisClient = addresses.make_client(servers, options)
        return several
    if config.redis_url.startswith("unix:"):
        del options["socket_keepalive"]
    return redis.Redis.from_url(config.redis_url, **options)


def _greet(connection: Any) -> None:
    """Begin a connection, and name it for CLIENT LIST where Redis allows that."""
    from redis.exceptions import ResponseError

    made = getattr(connection, "_sock", None)  # redis-py has no public name for it
    if isinstance(made, socket.socket):
        forks.keep_from_children(made)
    connection.on_connect()
    if not connection.client_name:
        connection.send_command("CLIENT", "SETNAME", "uwsgi_waffle")
        with suppress(ResponseError):
            connection.read_response()


def _check_url(config: Config) -> None:
    """Find out at the start, not at the first change, whether redis-py accepts the URL.

    :raises ConfigError: it does not
    """
    from redis.exceptions import RedisError

    from . import addresses

    client: Any = _make_client
    try:
        servers = addresses.servers_of(config.redis_url or "")
        if servers is None or servers.service:  # that of a Cluster would connect
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
