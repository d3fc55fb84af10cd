"""A change on its way: one row for each process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from uwsgi_waffle.ops.convergence import look

if TYPE_CHECKING:
    from uwsgi_waffle.bus.fleet import Fleet, HostStatus
    from uwsgi_waffle.host.processes import ProcessSlot
    from uwsgi_waffle.process.state import State

__all__ = ["Row", "Wave", "wave"]


@dataclass(frozen=True, slots=True)
class Row:
    """One process on its way to a revision.

    :ivar state: ``applied``, ``waiting``, ``refused``, ``silent``, or ``idle``: sees it at its next request
    :ivar after_ms: how long after the save it had applied it; ``None`` where that is not known
    """

    host: str
    role: str
    worker: int
    pid: int
    revision: int
    state: str
    after_ms: float | None


@dataclass(frozen=True, slots=True)
class Wave:
    """How far a revision has come.

    :ivar summary: that in a sentence
    :ivar missing: who is missing, and why, each in a sentence
    """

    revision: int
    applied: int
    total: int
    is_complete: bool
    summary: str
    rows: tuple[Row, ...]
    missing: tuple[str, ...]


def wave(state: State, revision: int, saved_at: float | None = None) -> Wave:
    """Return how far a revision has come.

    :param saved_at: when it was saved, in seconds since the epoch
    """
    fleet = look(state, revision)
    missing = (*fleet.missing, *fleet.refused)
    rows = tuple(
        _row(fleet, host, process, saved_at)
        for host in fleet.hosts
        for process in sorted(host.processes, key=lambda p: (p.role != "worker", p.worker, p.pid))
    )
    return Wave(
        revision=revision,
        applied=fleet.applied,
        total=fleet.total,
        is_complete=not missing,
        summary=_summary(fleet, rows, is_complete=not missing),
        rows=rows,
        missing=tuple(map(str, missing)),
    )


def _row(fleet: Fleet, host: HostStatus, process: ProcessSlot, saved_at: float | None) -> Row:
    state = "applied"
    if host.is_silent:
        state = "silent"
    elif process.refused_count:
        state = "refused"
    elif not fleet.is_served(process.position):
        state = "waiting" if process.follows else "idle"
    after_ms = None
    if state == "applied" and process.revision == fleet.revision and saved_at is not None:
        # Clocks of hosts differ; a process that started later has not waited for it.
        after_ms = (process.since - saved_at) * 1000
        after_ms = round(after_ms, 1) if 0 <= after_ms < _MOST_MS else None
    return Row(
        fleet.label(host),
        process.role,
        process.worker,
        process.pid,
        process.revision,
        state,
        after_ms,
    )


#: A process that has a revision for longer than that after the save was started later.
_MOST_MS = 120_000


def _summary(fleet: Fleet, rows: tuple[Row, ...], *, is_complete: bool) -> str:
    """Return how far it has come, in a sentence."""
    total = fleet.total
    if not total:
        return "No process is told of changes; each takes them when its next request starts."
    noun = "process" if total == 1 else "processes"
    count = f"{fleet.applied} of {total} {noun}"
    times = [row.after_ms for row in rows if row.after_ms is not None]
    if not is_complete or not times:
        return count
    most = max(times)
    return f"{count} in {f'{most:.0f} ms' if most < _SECOND_MS else f'{most / 1000:.1f} s'}"


_SECOND_MS = 1000


def as_json(found: Wave) -> dict[str, Any]:
    """Return a wave as JSON has it."""
    return {
        "revision": found.revision,
        "applied": found.applied,
        "total": found.total,
        "is_complete": found.is_complete,
        "summary": found.summary,
        "missing": list(found.missing),
        "processes": [
            {
                "host": row.host,
                "role": row.role,
                "worker": row.worker,
                "pid": row.pid,
                "revision": row.revision,
                "state": row.state,
                "after_ms": row.after_ms,
            }
            for row in found.rows
        ],
    }
