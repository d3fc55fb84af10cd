"""One URL that names several servers: the Sentinels of a master, or nodes of a Cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

__all__ = ["Servers", "make_client", "servers_of"]

#: Ports that are left out.
SENTINEL_PORT, CLUSTER_PORT = 26379, 6379
#: What is said to the Sentinels, and not to the servers that they watch.
_OF_SENTINELS = ("sentinel_username", "sentinel_password")


@dataclass(frozen=True, slots=True)
class Servers:
    """Several servers that act as one.

    :ivar nodes: host and port of each that is named; any of them knows the others
    :ivar service: the name under which Sentinels watch a master; ``""`` for a Cluster
    :ivar url: a URL of the first one alone, with what holds for a connection to each
    :ivar of_sentinels: user name and password at the Sentinels
    """

    nodes: tuple[tuple[str, int], ...]
    service: str
    url: str
    of_sentinels: Mapping[str, str]


def servers_of(url: str) -> Servers | None:
    """Return the servers that a URL names, ``None`` where it is that of one server.

    :raises ValueError: it is malformed
    """
    scheme, _, kind = url.partition("://")[0].partition("+")
    if not kind:
        return None
    parts = urlsplit(url)
    user, at, hosts = parts.netloc.rpartition("@")
    is_sentinel = kind == "sentinel"
    port = SENTINEL_PORT if is_sentinel else CLUSTER_PORT
    nodes = tuple(_node(host, port) for host in hosts.split(","))
    service, _, database = parts.path.removeprefix("/").partition("/")
    if is_sentinel and not service:
        message = "name the master that they watch, as in redis+sentinel://host:26379/mymaster"
        raise ValueError(message)
    if not is_sentinel:
        service, database = "", service
        if database not in ("", "0"):
            message = "a Cluster has no databases but 0"
            raise ValueError(message)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    of_sentinels = {
        name.removeprefix("sentinel_"): query.pop(name) for name in _OF_SENTINELS if name in query
    }
    first = f"{scheme}://{user}{at}{hosts.split(',')[0]}/{database}?{urlencode(query)}"
    return Servers(nodes, service, first, of_sentinels)


def _node(text: str, default_port: int) -> tuple[str, int]:
    """Return host and port.

    :raises ValueError: they are malformed
    """
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port or default_port
    except ValueError:  # its text may show a piece of a password that was not percent-encoded
        host, port = None, 0
    if not host:
        message = (
            "the servers must be host:port, separated by commas, and '/', '?', '#' and '@' in a "
            "password must be written as %2F, %3F, %23 and %40"
        )
        raise ValueError(message)
    return host, port


def make_client(servers: Servers, options: Mapping[str, Any]) -> Any:
    """Return a client of redis-py; that of a Cluster connects at once.

    :param options: of each connection
    :raises redis.exceptions.RedisClusterException: no node of the Cluster answers
    """
    from redis.connection import SSLConnection, parse_url

    each: dict[str, Any] = {**parse_url(servers.url), **options}  # type: ignore[no-untyped-call]  # of redis-py
    for name in ("host", "port"):
        each.pop(name, None)
    uses_tls = each.pop("connection_class", None) is SSLConnection
    if servers.service:
        return _sentinel_client(servers, {**each, **({"ssl": True} if uses_tls else {})})
    return _cluster_client(servers, {**each, "ssl": uses_tls})


def _sentinel_client(servers: Servers, each: Mapping[str, Any]) -> Any:
    from redis.sentinel import Sentinel

    alike = {name: value for name, value in each.items() if name.startswith(("socket_", "ssl"))}
    sentinel = Sentinel(  # type: ignore[no-untyped-call]  # of redis-py
        servers.nodes,
        sentinel_kwargs={**alike, **servers.of_sentinels, "retry": each["retry"]},
        **each,
    )
    return sentinel.master_for(servers.service)  # type: ignore[no-untyped-call]  # of redis-py


def _cluster_client(servers: Servers, each: dict[str, Any]) -> Any:
    from redis.backoff import NoBackoff
    from redis.cluster import ClusterNode, RedisCluster
    from redis.retry import Retry

    each.pop("db", None)
    each.pop("redis_connect_func", None)  # it has its own
    each["retry"] = Retry(NoBackoff(), 1)  # once more, after it has asked which nodes there are
    nodes = [ClusterNode(host, port) for host, port in servers.nodes]  # type: ignore[no-untyped-call]  # of redis-py
    return RedisCluster(startup_nodes=nodes, **each)
