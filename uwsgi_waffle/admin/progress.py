"""How far a revision has come: one row for each process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from uwsgi_waffle.bus.fleet import Refusal
from uwsgi_waffle.ops.convergence import look

if TYPE_CHECKING:
    from uwsgi_waffle.bus.fleet import Fleet, HostStatus
    from uwsgi_waffle.host.processes import ProcessSlot

    from .viewer import Viewer

__all__ = ["Progress", "Row", "progress_of"]

#: A process that has a revision for longer than that after the save was started later.
_MOST_MS = 120_000
_SECOND_MS = 1000


@dataclass(frozen=True, slots=True)
class Row:
    """One process on its way to a revision.

    :ivar state: ``applied``, ``waiting``, ``refused``, ``silent``, or ``idle``: it serves the
        revision when its next request starts
    :ivar after_ms: how long after the save it served the revision; ``None`` where that is not known
    """

    host: str
    role: str
    worker: int
    pid: int
    revision: int
    state: str
    after_ms: float | None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a revision has come.

    :ivar revision: the revision; a later one counts as well
    :ivar summary: that in a sentence
    :ivar missing: which processes and hosts do not serve it whole, and why, each in a sentence
    :ivar refused: which of those refuse a value of it
    """

    revision: int
    applied: int
    total: int
    is_complete: bool
    summary: str
    processes: tuple[Row, ...]
    missing: tuple[str, ...]
    refused: tuple[Refusal, ...]


def progress_of(viewer: Viewer, revision: int, saved_at: float | None = None) -> Progress:
    """Return how far a revision has come.

    :param saved_at: when it was saved, in seconds since the epoch
    """
    fleet = look(viewer.state, revision)
    refused = tuple(viewer.refusals(fleet))
    missing = (*fleet.missing, *refused)
    if fleet.revision != revision:  # its processes may never have served this one
        saved_at = None
    rows = tuple(
        _row(fleet, host, process, saved_at) for host in fleet.hosts for process in host.processes
    )
    return Progress(
        revision=revision,
        applied=fleet.applied,
        total=fleet.total,
        is_complete=not missing,
        summary=_summary(fleet, rows, revision, is_complete=not missing),
        processes=rows,
        missing=tuple(map(str, missing)),
        refused=refused,
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


def _summary(fleet: Fleet, rows: tuple[Row, ...], revision: int, *, is_complete: bool) -> str:
    """Return how far it has come, in a sentence."""
    total = fleet.total
    if not total and is_complete:
        return "No process is woken for changes; each serves them when its next request starts."
    noun = "process" if total == 1 else "processes"
    count = f"{fleet.applied} of {total} {noun}"
    if fleet.revision != revision:
        return f"{count} at the current revision, {fleet.revision}"
    times = [row.after_ms for row in rows if row.after_ms is not None]
    if not is_complete or not times:
        return count
    most = max(times)
    return f"{count} in {f'{most:.0f} ms' if most < _SECOND_MS else f'{most / 1000:.1f} s'}"
