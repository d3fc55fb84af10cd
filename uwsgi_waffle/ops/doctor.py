"""Looking for what cannot work as meant, and naming the fix for each.

What it sees from outside uWSGI: the database, Redis, the host snapshot with the processes in it,
and the ini files of the instances that those belong to. Within uWSGI: the options in force.
No fact depends on two clocks agreeing.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from uwsgi_waffle.bus.client import BusUnavailable
from uwsgi_waffle.bus.fleet import HostStatus
from uwsgi_waffle.errors import StoreUnavailable
from uwsgi_waffle.host.files import default_path
from uwsgi_waffle.process.state import State
from uwsgi_waffle.server import _uwsgi, ini, traps
from uwsgi_waffle.server.traps import Finding

from .status import Status, collect

__all__ = ["Diagnosis", "Finding", "examine"]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was found.

    :ivar looked_at: what is in order, a line each
    :ivar findings: what is not
    """

    looked_at: tuple[str, ...]
    findings: tuple[Finding, ...]


def examine(state: State, ini_files: Sequence[Path] = ()) -> Diagnosis:
    """Look at everything that this process can see.

    :param ini_files: configurations of uWSGI to look through, beside those in use on this host
    """
    looked_at: list[str] = []
    findings: list[Finding] = []
    status = collect(state)
    checks: list[tuple[str, Callable[[], Iterable[Finding]]]] = [
        (f"database {state.store.database.url}", lambda: _database(state)),
        (_redis_title(state), lambda: _redis(state, status)),
        (f"host snapshot {state.host.path}", lambda: _snapshot(state)),
        ("processes and listener of this host", lambda: _processes(state, status.host)),
        ("stored values", lambda: _values(state, status.problems)),
        ("secrets at rest", lambda: _secrets(state)),
    ]
    if _uwsgi.server is not None:
        server = _uwsgi.server
        checks.append(("uWSGI's options", lambda: traps.find(server)))
    checks += [(f"uWSGI's {path}", partial(_of_file, path)) for path in ini_files]
    checks += [
        (f"uWSGI's options ({found.title})", partial(_options, found))
        for found in _running(status.host)
    ]
    for title, check in checks:
        found = list(check())
        findings += found
        if not found:
            looked_at.append(title)
    return Diagnosis(tuple(looked_at), tuple(findings))


# -- the database -----------------------------------------------------------------------------


def _database(state: State) -> Iterator[Finding]:
    database = state.store.database
    if state.config.database_uri.startswith("sqlite") and (
        ":memory:" in state.config.database_uri or state.config.database_uri.endswith("sqlite://")
    ):
        yield Finding(
            "database-in-memory",
            "The database is in memory: each process has one of its own, and loses it.",
            "Give WAFFLE_DATABASE_URI a file or a server.",
        )
        return
    try:
        missing = database.missing_tables()
    except StoreUnavailable as error:
        yield Finding(
            "database-unavailable",
            f"{error} The last known settings are served; nothing can be changed.",
            "Start the database, or correct WAFFLE_DATABASE_URI.",
        )
        return
    if missing:
        served = "what was seen last is" if state.host.position.exists else "the defaults are"
        yield Finding(
            "tables-missing",
            f"The tables {', '.join(missing)} are not there; {served} served.",
            "Run `flask waffle init-db` or your migrations."
            + (" The first change makes them, too." if database.auto_create else ""),
            is_wrong=not database.auto_create,
        )


# -- Redis ------------------------------------------------------------------------------------


def _redis_title(state: State) -> str:
    return f"Redis {state.redis.location}" if state.config.multiproc else "Redis (not used)"


def _redis(state: State, status: Status) -> Iterator[Finding]:
    if not state.config.multiproc:
        yield Finding(
            "not-multiproc",
            "WAFFLE_MULTIPROC is off: no process listens, and changes are not announced. Requests on "
            f"other hosts see them within {state.config.poll_seconds:g} s.",
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
            f"hosts see changes by polling SQL, within {state.config.poll_seconds:g} s.",
            "Start Redis, or correct WAFFLE_REDIS_URL (or _HOST and _PORT).",
        )
        return
    yield from _other_hosts(state, status)


def _other_hosts(state: State, status: Status) -> Iterator[Finding]:
    for host in status.hosts:
        if host.is_silent:
            yield Finding(
                "host-silent",
                f"Host {host.name} ({host.id[:6]}) has not reported for "
                f"{host.reported_seconds_ago:.0f} s: it is cut off from Redis, or gone.",
                "Look at its listener there. If it is gone for good, run "
                f"`flask waffle forget {host.id[:6]}`; after 300 s it is forgotten by itself.",
            )
        elif host.fault and host.id != status.host.id:
            yield Finding(
                "host-fault",
                f"Host {host.name} ({host.id[:6]}) cannot vouch for its processes: {host.fault}.",
                "Run `flask waffle doctor` there.",
            )
        if host.unlisted:
            yield Finding(
                "workers-not-loaded",
                f"On host {host.name}, {host.unlisted} of uWSGI's workers have not loaded the "
                "application.",
                "Look at the server's log there for the reason.",
            )
    declared = {host.declaration for host in status.hosts if host.declaration}
    if len(declared) > 1:
        names = ", ".join(f"{h.name} ({h.declaration})" for h in status.hosts if h.declaration)
        yield Finding(
            "declarations-differ",
            f"Hosts run releases that declare different settings: {names}.",
            "Nothing, while a new release is being rolled out; else deploy the same one everywhere.",
            is_wrong=False,
        )
    if status.other_lineages:
        yield Finding(
            "other-database",
            "Another database is announced on this Redis under the same channel and namespace, "
            "and ignored.",
            "Give each application a WAFFLE_NAMESPACE of its own; if it is meant to be one, give "
            "all the same WAFFLE_DATABASE_URI.",
            is_wrong=False,
        )
    if status.ignored:
        yield Finding(
            "messages-ignored",
            f"{status.ignored} messages or reports on Redis were malformed, or not signed by the "
            "key of this database, and ignored.",
            "Find out what else may write to this Redis; give it a password, or an ACL.",
            is_wrong=False,
        )
    for refusal in status.fleet.refused:
        yield Finding(
            "value-refused",
            f"{refusal}.",
            "Set a value that every release accepts, or deploy the release that does.",
        )


# -- the host snapshot --------------------------------------------------------------------------


def _snapshot(state: State) -> Iterator[Finding]:
    path = state.host.path
    if not state.host.is_shared:
        yield Finding(
            "snapshot-not-shared",
            f"The host snapshot {path} cannot be used by {_user_name(os.geteuid())}, so this "
            "process sees no other, and no other sees what it writes until it asks SQL.",
            "Run as the user that the server runs as; or give WAFFLE_SNAPSHOT_PATH a directory of "
            "that user which no one else may write to.",
        )
    else:
        yield from _permissions(path)
    yield from _of_other_users(state)


def _permissions(path: Path) -> Iterator[Finding]:
    # What others could write, or replace, was refused when it was opened; reading is left.
    directory = path.parent.stat()
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        yield Finding(
            "snapshot-mode",
            f"Others may read or write {path}, which holds the settings.",
            f"Run `chmod 600 {path}`.",
        )
    if directory.st_mode & 0o022:
        yield Finding(
            "snapshot-directory",
            f"Others may put files beside {path}, which keeps it from being made anew.",
            "Give WAFFLE_SNAPSHOT_PATH a directory that only its user may write to.",
            is_wrong=False,
        )


def _of_other_users(state: State) -> Iterator[Finding]:
    """Yield that another user has a snapshot of the same application on this host."""
    own = default_path(state.config)
    if state.config.snapshot_path is not None:
        return
    for directory in sorted(own.parent.parent.glob("uwsgi_waffle-*")):
        certainty = None if directory == own.parent else _certainty(directory / own.name)
        if certainty is None:
            continue
        user = _user_name(directory.stat().st_uid)
        yield Finding(
            "other-user",
            f"User {user} {certainty} this application on this host, too, with a host snapshot of "
            f"its own in {directory}. Its processes are not among those that this user sees.",
            f"Run this command as that user: `sudo -u {user} flask waffle ...`.",
            is_wrong=certainty == "runs",
        )


def _certainty(path: Path) -> str | None:
    """Return whether whoever could have made a file ``runs``, or ``may run``, the application."""
    try:
        path.lstat()
    except FileNotFoundError:
        return None
    except PermissionError:
        return "may run"
    return "runs"


def _user_name(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"


# -- processes ----------------------------------------------------------------------------------


def _processes(state: State, host: HostStatus) -> Iterator[Finding]:
    if not host.processes:
        yield Finding(
            "no-process",
            "No process of the application runs on this host, as far as this user sees.",
            "Start the server; a process is listed once it has set itself up, at its first "
            "request at the latest.",
            is_wrong=False,
        )
        return
    if state.config.multiproc and host.listener.state == "absent":
        yield Finding(
            "no-listener",
            "No listener runs on this host: each request asks SQL, at most once in "
            f"{state.config.poll_seconds:g} s.",
            f"WAFFLE_LISTENER is {state.config.listener!r}. Set it to 'auto'; under uWSGI add "
            "`shared-import = uwsgi_waffle.boot` and `mule = waffle`; or run `flask waffle "
            "listen`. The server's log says why, when it starts.",
        )
    elif host.listener.state == "polling":
        yield Finding(
            "listener-polls",
            f"The listener of this host only polls SQL ({host.listener.error or 'no Redis'}).",
            "Make Redis answer on this host; the listener finds it by itself.",
        )
    behind = [p for p in host.processes if p.follows and p.position != host.position]
    for process in behind:
        yield Finding(
            "process-behind",
            f"{process.role.capitalize()} {process.worker or ''} (pid {process.pid}) has revision "
            f"{process.revision}, not {host.revision}: it is stopped, or busy with one request.",
            "It takes the revision before its next request. If it hangs, end it; uWSGI's "
            "`harakiri` does so by itself.",
        )


# -- values -----------------------------------------------------------------------------------


def _values(state: State, problems: Sequence[str]) -> Iterator[Finding]:
    current = state.serving.current
    for problem in current.problems:
        name = problem.name or "the settings named there"
        yield Finding(
            "value-unusable",
            str(problem),
            f"`flask waffle set {name}=...` or `flask waffle reset {name}`, or the key in "
            "WAFFLE_ENCRYPTION_KEYS that opens it.",
        )
    if current.undeclared:
        yield Finding(
            "undeclared",
            f"Stored but not declared by this release: {', '.join(current.undeclared)}.",
            "Nothing, if another release declares them; they do no harm.",
            is_wrong=False,
        )
    if any("flask waffle resync" in problem for problem in problems):
        yield Finding(
            "database-behind",
            "SQL is behind what this host has seen: a restored backup, a replica that lags, or a "
            "database that was emptied. The later values are served.",
            "If the database is right, run `flask waffle resync`; else restore it, or point "
            "WAFFLE_DATABASE_URI at the primary.",
        )


def _secrets(state: State) -> Iterator[Finding]:
    secrets = state.declaration.secrets
    if not secrets:
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
        rows = state.store.read().rows or {}
    except StoreUnavailable:
        return  # said already
    unsealed = sorted(n for n in secrets & rows.keys() if not state.cipher.is_sealed(rows[n]))
    if unsealed:
        yield Finding(
            "secrets-unsealed",
            f"Stored before there was a key, and so open: {', '.join(unsealed)}.",
            "Run `flask waffle rotate-keys`.",
        )


# -- uWSGI --------------------------------------------------------------------------------------


def _running(host: HostStatus) -> Iterator[ini.Configuration]:
    """Yield the options of the instances whose processes serve the application on this host."""
    for master in sorted({process.master for process in host.processes if process.master}):
        with suppress(OSError):  # it has just ended, or is another user's
            yield ini.of_running_master(master)


def _of_file(path: Path) -> Iterator[Finding]:
    try:
        found = ini.read_ini(path)
    except OSError as error:
        yield Finding("ini-unreadable", f"{path}: {error}.", "Let this user read it.")
    else:
        yield from _options(found)


def _options(found: ini.Configuration) -> Iterator[Finding]:
    """Yield what is wrong with options; of several mounts more shows than uWSGI tells Python."""
    server = found.as_server()
    mounts = len(found.values.get("mount", []))
    for trap in traps.find(server):
        if trap.code != "several-interpreters" or mounts > 1:
            yield trap
    boots = "uwsgi_waffle.boot" in " ".join(found.values.get("shared-import", []))
    if not (server.enabled("master") or server.enabled("M")):
        yield Finding(
            "no-master",
            "uWSGI runs without a master, so there are no signals: each worker listens for itself.",
            "Set `master = true`.",
        )
    elif not boots and (server.enabled("lazy-apps") or server.enabled("lazy")):
        yield Finding(
            "lazy-without-boot",
            "lazy-apps without uwsgi_waffle.boot in the master: each worker listens for itself, "
            "with a Redis connection of its own, and a mule gets no program.",
            "Add `shared-import = uwsgi_waffle.boot`.",
        )
