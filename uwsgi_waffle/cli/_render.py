"""What commands print: lines for people, and plain values for ``--json``.

Nothing here asks anything; click leaves colours out where it does not write to a terminal.
"""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from itertools import groupby
from typing import Any

import click

from uwsgi_waffle.bus.fleet import Fleet, HostStatus
from uwsgi_waffle.host.processes import ProcessSlot
from uwsgi_waffle.ops.doctor import Diagnosis
from uwsgi_waffle.ops.status import Status
from uwsgi_waffle.sql.history import Change
from uwsgi_waffle.values.settings import MASK, plain_json

#: The narrowest terminal that lines are made for, and the widest that is of use.
NARROWEST, WIDEST = 60, 120
#: How many changes are named where somebody was overtaken.
MOST_NAMED = 3


def width() -> int:
    """Return how many columns a line may take; 80 where there is no terminal to ask."""
    return min(max(shutil.get_terminal_size((80, 24)).columns, NARROWEST), WIDEST)


# -- values -----------------------------------------------------------------------------------


def to_json(value: object) -> Any:
    """Return a value as JSON has it; as a text where it has no such form."""
    try:
        return plain_json(value)
    except ValueError:
        return str(value)


def shown(value: object) -> str:
    """Return a value in one line, as ``set`` would take it."""
    return (
        value
        if value == MASK and isinstance(value, str)
        else json.dumps(to_json(value), ensure_ascii=False)
    )


def shorten(text: str, most: int) -> str:
    """Return a text that takes no more than *most* columns, in one line."""
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 3]}..."


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, most: Sequence[int]
) -> Iterator[str]:
    """Yield aligned lines; the last column takes what is left of the line.

    :param most: the widest that each column but the last may be
    """
    cells = [[shorten(cell, cap) for cell, cap in zip(row, most, strict=False)] for row in rows]
    titles = list(header[:-1])
    widths = [max(1, *map(len, column)) for column in zip(titles, *cells, strict=True)]
    left = width() - sum(widths) - 2 * len(widths)
    yield click.style(_joined([*titles, header[-1]], widths), bold=True)
    for row, cut in zip(rows, cells, strict=True):
        yield _joined([*cut, shorten(row[-1], left)], widths)


def _joined(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [cell.ljust(size) for cell, size in zip(cells, widths, strict=False)]
    return "  ".join([*padded, cells[-1]]).rstrip()


# -- changes ----------------------------------------------------------------------------------


def changes(changed: Mapping[str, tuple[Any, Any]], masked: Iterable[str]) -> Iterator[str]:
    """Yield a line for each setting that changed."""
    secret = frozenset(masked)
    for name, (old, new) in changed.items():
        hidden = name in secret
        yield change_line(name, MASK if hidden else old, MASK if hidden else new)


def change_line(name: str, old: object, new: object, *, indent: str = "", end: str = "") -> str:
    """Return ``NAME: old -> new`` in one line; of a long value the beginning."""
    room = width() - len(f"{indent}{name}:  -> {end}")
    before, after = shown(old), shown(new)
    # Each may have half the room, and what the other does not need of its own.
    for_before = max(room // 2, room - len(after))
    before = shorten(before, for_before)
    after = shorten(after, room - len(before))
    arrow = f"{click.style(before, fg='red')} -> {click.style(after, fg='green')}"
    return f"{indent}{click.style(name, bold=True)}: {arrow}{end}"


def changes_json(
    changed: Mapping[str, tuple[Any, Any]], masked: Iterable[str]
) -> dict[str, dict[str, Any]]:
    """Return changes by name."""
    secret = frozenset(masked)
    return {
        name: {
            "old": MASK if name in secret else to_json(old),
            "new": MASK if name in secret else to_json(new),
        }
        for name, (old, new) in changed.items()
    }


def history(lines: Sequence[Change]) -> Iterator[str]:
    """Yield the history, newest first, the changes of a revision under its head."""
    for number, (revision, group) in enumerate(groupby(lines, key=lambda c: c.revision)):
        of_revision = list(group)
        first = of_revision[0]
        if number:
            yield ""
        head = click.style(f"revision {revision}", fg="yellow", bold=True)
        yield f"{head}  {moment(first.at)}  {first.actor or '(nobody)'}, by {first.source}"
        if first.comment:
            yield from textwrap.wrap(
                first.comment, width(), initial_indent="    ", subsequent_indent="    "
            )
        for change in of_revision:
            end = " (default)" if change.is_default else ""
            yield change_line(change.name, change.old, change.new, indent="  ", end=end)


def history_json(lines: Iterable[Change]) -> list[dict[str, Any]]:
    """Return the history as a list."""
    return [
        {
            "revision": change.revision,
            "name": change.name,
            "old": to_json(change.old),
            "new": to_json(change.new),
            "is_default": change.is_default,
            "actor": change.actor,
            "comment": change.comment,
            "source": change.source,
            "at": change.at.isoformat(),
        }
        for change in lines
    ]


def overtaken(since: Sequence[Change]) -> str:
    """Return who made the changes, the latest first, and what they were."""
    told = [
        f"{change.actor or 'somebody'} ({change.source}) changed {change.name} from "
        f"{shorten(shown(change.old), 40)} to {shorten(shown(change.new), 40)} in revision "
        f"{change.revision}" + (f" ({change.comment})" if change.comment else "")
        for change in since[:MOST_NAMED]
    ]
    if len(since) > MOST_NAMED:
        told.append(f"and {len(since) - MOST_NAMED} changes more")
    return "; ".join(told)


def moment(at: datetime) -> str:
    """Return a moment in UTC, to the second."""
    return at.astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")


# -- the fleet --------------------------------------------------------------------------------


def status(found: Status, *, namespace: str, database: str) -> Iterator[str]:
    """Yield the status: a line for each process, under its host."""
    fleet = found.fleet
    revision = "unknown" if found.revision is None else str(found.revision)
    yield f"{click.style(f'SQL has revision {revision}', bold=True)} of namespace {namespace}"
    yield shorten(database, width())
    yield _summary(fleet)
    for host in found.hosts:
        yield ""
        yield from _host(fleet, host, is_this=host.id == found.host.id)
    for number, problem in enumerate(found.problems):
        yield from [""] if number == 0 else []
        yield from _item(problem, fg="red")


def _summary(fleet: Fleet) -> str:
    """Return how many processes have the revision."""
    missing = (*fleet.missing, *fleet.refused)
    hosts = "1 host" if len(fleet.hosts) == 1 else f"{len(fleet.hosts)} hosts"
    total = fleet.total
    noun = "process" if total == 1 else "processes"
    text = f"{fleet.applied} of {total} {noun} on {hosts} at revision {fleet.revision}"
    return click.style(text, fg="red" if missing else "green")


def _host(fleet: Fleet, host: HostStatus, *, is_this: bool) -> Iterator[str]:
    name = click.style(fleet.label(host), bold=True)
    where = " (this host)" if is_this else ""
    if host.is_silent:
        silent = f"silent for {host.reported_seconds_ago:.0f} s; last known:"
        yield f"{name}{where}: {click.style(silent, fg='red')}"
    else:
        yield f"{name}{where}: revision {host.revision}, listener {_listener(host)}"
    if host.listener.error and not is_this:  # of this host it stands among the problems
        yield from _item(host.listener.error, fg="red")
    for process in host.processes:
        yield _process(fleet, process, is_known=not host.is_silent)


def _listener(host: HostStatus) -> str:
    listener = host.listener
    since = f" since {_since(listener.since)}" if listener.since else ""
    return click.style(listener.state, fg="green" if listener.state == "live" else "red") + since


def _process(fleet: Fleet, process: ProcessSlot, *, is_known: bool) -> str:
    """Return the line of a process: what it is, its revision, since when."""
    number = str(process.worker) if process.worker else ""
    what = f"  {process.role:<9}{number:>3}  pid {process.pid:<8}"
    state = f"revision {process.revision:<7} since {_since(process.since)}"
    refused = process.refused
    if refused is not None and is_known:
        text = f"{what}  {state}  refuses {refused.name or 'the settings'} ({refused.reason})"
        return click.style(f"{text}; serves the {refused.serving}", fg="red")
    if fleet.is_served(process.position) and is_known:
        return f"{what}  {state}"
    behind = "  behind" if process.follows else "  at its next request"
    text = f"{what}  {state}{behind if is_known else ''}"
    return click.style(text, fg="red" if process.follows else None)


def _since(seconds: float) -> str:
    return moment(datetime.fromtimestamp(seconds, timezone.utc)).removesuffix(" UTC")


def _item(text: str, *, fg: str) -> Iterator[str]:
    """Yield a text as an item of a list, wrapped."""
    lines = textwrap.wrap(text, width(), initial_indent="  ! ", subsequent_indent="    ")
    return (click.style(line, fg=fg) for line in lines)


def status_json(found: Status) -> dict[str, Any]:
    """Return the status by name."""
    return {
        "revision": found.revision,
        "lineage": found.lineage,
        "converged": not found.fleet.missing and not found.fleet.refused,
        "process": asdict(found.process),
        "fleet": fleet_json(found.fleet),
        "problems": list(found.problems),
    }


def fleet_json(fleet: Fleet) -> dict[str, Any]:
    """Return how far a revision has come, by name."""
    return {
        "revision": fleet.revision,
        "applied": fleet.applied,
        "total": fleet.total,
        "seconds": round(fleet.seconds, 3),
        "missing": [
            {
                "host": laggard.host,
                "pid": laggard.process.pid if laggard.process is not None else None,
                "reason": laggard.reason,
            }
            for laggard in fleet.missing
        ],
        "refused": [asdict(refusal) for refusal in fleet.refused],
        "hosts": [_host_json(fleet, host) for host in fleet.hosts],
    }


def _host_json(fleet: Fleet, host: HostStatus) -> dict[str, Any]:
    processes = [_flat(asdict(process)) for process in host.processes]
    known = {**_flat(asdict(host)), "label": fleet.label(host), "processes": processes}
    del known["exceptions"]
    return known


def _flat(fields: dict[str, Any]) -> dict[str, Any]:
    """Return fields with those of the position in its place."""
    return {**fields.pop("position"), **fields}


# -- the doctor -------------------------------------------------------------------------------


def diagnosis(found: Diagnosis) -> Iterator[str]:
    """Yield what was looked at, then each finding with its fix."""
    for line in found.looked_at:
        yield f"{click.style('ok', fg='green')}    {line}"
    for finding in found.findings:
        fg = "red" if finding.is_wrong else "yellow"
        lines = textwrap.wrap(finding.fact, width() - 6)
        lines += textwrap.wrap(f"Fix: {finding.fix}", width() - 6)
        word = "wrong" if finding.is_wrong else "note"
        yield f"{click.style(word, fg=fg)}{' ' * (6 - len(word))}{lines[0]}"
        yield from (f"      {line}" for line in lines[1:])


def diagnosis_json(found: Diagnosis) -> dict[str, Any]:
    """Return a diagnosis by name."""
    return {
        "ok": list(found.looked_at),
        "findings": [
            {"code": f.code, "is_wrong": f.is_wrong, "fact": f.fact, "fix": f.fix}
            for f in found.findings
        ],
    }
