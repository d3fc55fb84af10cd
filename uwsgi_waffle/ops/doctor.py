"""Looking for what cannot work as meant, and naming the fix for each.

What it sees from outside uWSGI: the database, Redis, the host snapshot with the processes in it,
and the ini files of the instances that those belong to. Within uWSGI: the options in force.
No fact depends on two clocks agreeing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from uwsgi_waffle.process.state import State
from uwsgi_waffle.server import _uwsgi, traps
from uwsgi_waffle.server.traps import Finding

from . import host_checks, store_checks
from .status import collect

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
    for title, check in _checks(state, ini_files):
        found = list(check())
        findings += found
        if not found:
            looked_at.append(title)
    return Diagnosis(tuple(looked_at), tuple(findings))


def _checks(
    state: State, ini_files: Sequence[Path]
) -> list[tuple[str, Callable[[], Iterable[Finding]]]]:
    """Return each check with its title, in the order in which they are shown."""
    status = collect(state)
    redis = f"Redis {state.redis.location}" if state.config.multiproc else "Redis (not used)"
    checks: list[tuple[str, Callable[[], Iterable[Finding]]]] = [
        (f"database {state.store.database.url}", partial(store_checks.database, state)),
        (redis, partial(store_checks.redis, state, status)),
        (f"host snapshot {state.host.path}", partial(host_checks.snapshot, state)),
        ("processes and listener of this host", partial(host_checks.processes, state, status.host)),
        ("stored values", partial(store_checks.values, state, status)),
        ("secrets at rest", partial(store_checks.secrets, state)),
    ]
    if _uwsgi.server is not None:
        checks.append(("uWSGI's options", partial(traps.find, _uwsgi.server)))
    checks += [(f"uWSGI's {path}", partial(host_checks.ini_file, path)) for path in ini_files]
    checks += [
        (f"uWSGI's options ({found.title})", partial(host_checks.options, found))
        for found in host_checks.running(status.host)
    ]
    return checks
