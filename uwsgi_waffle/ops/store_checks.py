"""What ``doctor`` looks at beyond this host: SQL, Redis, other hosts, stored values and secrets."""

from __future__ import annotations

from collections.abc import Iterator

from uwsgi_waffle.bus.client import BusUnavailable
from uwsgi_waffle.bus.fleet import HostStatus
from uwsgi_waffle.errors import StoreUnavailable
from uwsgi_waffle.process.state import State
from uwsgi_waffle.server.traps import Finding
from uwsgi_waffle.sql.hosts import FORGET_SECONDS

from .convergence import refusals
from .status import Status, other_databases

__all__ = ["database", "redis", "secrets", "values"]


def database(state: State) -> Iterator[Finding]:
    """Yield what is wrong with the database."""
    if state.config.is_in_memory:
        yield Finding(
            "database-in-memory",
            "The database is in memory: each process has its own, and loses it when it ends.",
            "Give WAFFLE_DATABASE_URI a file or a server.",
        )
        return
    stored = state.store.database
    try:
        missing = stored.missing_tables()
    except StoreUnavailable as error:
        yield Finding(
            "database-unavailable",
            f"{error} The last known settings are served; nothing can be changed.",
            "Start the database, or correct WAFFLE_DATABASE_URI.",
        )
        return
    if missing:
        served = "the last known settings" if state.host.position.exists else "the defaults"
        creates = " The first change creates them, too." if stored.auto_create else ""
        yield Finding(
            "tables-missing",
            f"The tables {', '.join(missing)} are missing; {served} are served.",
            f"Run `flask waffle init-db` or your migrations.{creates}",
            is_wrong=not stored.auto_create,
        )


def redis(state: State, status: Status) -> Iterator[Finding]:
    """Yield what is wrong with Redis, and with the hosts that report there."""
    poll_seconds = state.config.poll_seconds
    if not state.config.multiproc:
        yield Finding(
            "not-multiproc",
            "WAFFLE_MULTIPROC is off: no process listens, and changes are not announced. Requests "
            f"on other hosts see them within {poll_seconds:g} s.",
            "Set WAFFLE_MULTIPROC to True, if there is more than one process.",
            is_wrong=False,
        )
        return
    try:
        state.reports.read(state.host.position.lineage)
    except BusUnavailable as error:
        yield Finding(
            "redis-unavailable",
            f"Redis at {state.redis.location} does not answer ({error}). Values stay right: other "
            f"hosts see changes by polling SQL, within {poll_seconds:g} s.",
            "Start Redis, or correct WAFFLE_REDIS_URL (or _HOST and _PORT).",
        )
        return
    for host in status.hosts:
        yield from _host(host, is_this=host.id == status.host.id)
    yield from _messages(status)
    yield from _declarations(status)


def _host(host: HostStatus, *, is_this: bool) -> Iterator[Finding]:
    """Yield what is wrong with a host, as it reports itself."""
    if host.is_silent:
        yield Finding(
            "host-silent",
            f"Host {host.name} ({host.id[:6]}) has not reported for "
            f"{host.reported_seconds_ago:.0f} s: it is cut off from Redis, or gone.",
            "Look at its listener there. If it is gone for good, run "
            f"`flask waffle forget {host.id[:6]}`; after {FORGET_SECONDS} s it is forgotten by "
            "itself.",
        )
    elif host.fault and not is_this:
        yield Finding(
            "host-fault",
            f"Host {host.name} ({host.id[:6]}) cannot vouch for its processes: {host.fault}.",
            "Run `flask waffle doctor` there.",
        )
    if host.unlisted:
        workers = (
            "1 of uWSGI's workers has"
            if host.unlisted == 1
            else f"{host.unlisted} of uWSGI's workers have"
        )
        yield Finding(
            "workers-not-loaded",
            f"On host {host.name}, {workers} not loaded the application.",
            "Look at the server's log there for the reason.",
        )


def _messages(status: Status) -> Iterator[Finding]:
    """Yield what else uses our channel and namespace on Redis."""
    if status.other_lineages:
        others = other_databases(status.other_lineages)
        yield Finding(
            "other-database",
            f"{others} announced on this Redis under the same channel and namespace, and ignored.",
            "Give each application a WAFFLE_NAMESPACE of its own; if it is the same application, "
            "give all hosts the same WAFFLE_DATABASE_URI.",
            is_wrong=False,
        )
    if status.ignored:
        count = status.ignored
        messages = "1 message or report" if count == 1 else f"{count} messages or reports"
        yield Finding(
            "messages-ignored",
            f"This host ignored {messages} on Redis: malformed, or not signed by the key of this "
            "database.",
            "Find out what else may write to this Redis; give it a password, or an ACL.",
            is_wrong=False,
        )


def _declarations(status: Status) -> Iterator[Finding]:
    """Yield that releases differ."""
    declared = {host.declaration for host in status.hosts if host.declaration}
    if len(declared) > 1:
        named = ((status.fleet.label(host), host.declaration) for host in status.hosts)
        names = ", ".join(f"{label} ({digest})" for label, digest in named if digest)
        yield Finding(
            "declarations-differ",
            f"Hosts run releases that declare different settings: {names}.",
            "Nothing, while a new release is rolled out; else deploy the same release everywhere.",
            is_wrong=False,
        )


def values(state: State, status: Status) -> Iterator[Finding]:
    """Yield what is wrong with the stored values."""
    for refusal in refusals(status.fleet):
        yield Finding(
            "value-refused",
            f"{refusal}.",
            "Set a value that every release accepts, or deploy the release that does.",
        )
    current = state.serving.current
    for refused in current.refused:
        name = refused.name or "the settings named there"
        yield Finding(
            "value-unusable",
            str(refused),
            f"Run `flask waffle set {name}=...` or `flask waffle reset {name}`, or add the key "
            "that opens it to WAFFLE_ENCRYPTION_KEYS.",
        )
    if current.undeclared:
        yield Finding(
            "undeclared",
            f"Stored but not declared by this release: {', '.join(current.undeclared)}.",
            "Nothing, if another release declares them; they do no harm.",
            is_wrong=False,
        )
    if any("flask waffle resync" in problem for problem in status.problems):
        yield Finding(
            "database-behind",
            "SQL is behind what this host has seen: a restored backup, a replica that lags, or a "
            "database that was emptied. The later values are served.",
            "If the database is right, run `flask waffle resync`; else restore it, or point "
            "WAFFLE_DATABASE_URI at the primary.",
        )


def secrets(state: State) -> Iterator[Finding]:
    """Yield which secrets are stored without encryption."""
    names = state.declaration.secrets
    if not names:
        return
    if not state.cipher.seals:
        yield Finding(
            "secrets-unsealed",
            "Secret settings are stored as they are: WAFFLE_ENCRYPTION_KEYS is not set.",
            "Set it to a key of `cryptography.fernet.Fernet.generate_key()`, then run "
            "`flask waffle rotate-keys`.",
            is_wrong=False,
        )
        return
    try:
        rows = state.store.read().rows
    except StoreUnavailable:
        return  # another finding reports it
    unsealed = sorted(n for n in names & rows.keys() if not state.cipher.is_sealed(rows[n]))
    if unsealed:
        yield Finding(
            "secrets-unsealed",
            f"Stored before there was a key, and so unencrypted: {', '.join(unsealed)}.",
            "Run `flask waffle rotate-keys`.",
        )
