"""What commands print: lines for people, and plain values for ``--json``.

Nothing here asks anything; click leaves colours out where it does not write to a terminal.
"""

from __future__ import annotations

import json
import re
import shutil
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from itertools import groupby
from typing import Any

import click

from uwsgi_waffle.bus.fleet import Fleet, HostStatus, describe_silence
from uwsgi_waffle.host.processes import ProcessSlot
from uwsgi_waffle.ops.doctor import Diagnosis
from uwsgi_waffle.ops.plain import flat, host_json, plain
from uwsgi_waffle.ops.status import Status
from uwsgi_waffle.sql.history import Change
from uwsgi_waffle.values.settings import MASK

#: The narrowest terminal that lines are made for, and the widest that is of use.
NARROWEST, WIDEST = 60, 120
#: How many changes a refusal by `--expect` names.
MOST_NAMED = 3
#: What a terminal obeys instead of showing it: control characters, ends of lines, and marks that
#: change the direction of text; and surrogates, which cannot be written.
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    r"""Return a text that others wrote so that a terminal only shows it, in one line.

    What a terminal would obey is written as ``\u001b``, which means the same within JSON.
    """
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def width() -> int:
    """Return how many columns a line may have: those of the terminal, or 80."""
    return min(max(shutil.get_terminal_size((80, 24)).columns, NARROWEST), WIDEST)


# -- values -----------------------------------------------------------------------------------


def shown(value: object) -> str:
    """Return a value in one line, in the form that ``set`` accepts."""
    if value == MASK:
        return MASK
    return printable(json.dumps(plain(value), ensure_ascii=False))


def one_line(text: str) -> str:
    """Return a text in one line."""
    return printable(" ".join(text.split()))


def shorten(text: str, most: int) -> str:
    """Return a text in one line of no more than *most* columns."""
    text = one_line(text)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def counted(count: int, noun: str) -> str:
    """Return how many things there are, in words."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{count} {noun if count == 1 else plural}"


def wrapped(text: str, *, first: str = "", rest: str = "", columns: int = 0) -> list[str]:
    """Return a text in lines that fit, each after its indent."""
    return textwrap.wrap(
        one_line(text), columns or width(), initial_indent=first, subsequent_indent=rest
    )


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, most: Sequence[int]
) -> Iterator[str]:
    """Yield aligned lines; the last column gets the rest of the line.

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
    for name, (old, new) in _masked(changed, masked).items():
        yield change_line(name, old, new)


def changes_json(
    changed: Mapping[str, tuple[Any, Any]], masked: Iterable[str]
) -> dict[str, dict[str, Any]]:
    """Return changes by name."""
    return {
        name: {"old": plain(old), "new": plain(new)}
        for name, (old, new) in _masked(changed, masked).items()
    }


def _masked(
    changed: Mapping[str, tuple[Any, Any]], masked: Iterable[str]
) -> dict[str, tuple[Any, Any]]:
    secret = frozenset(masked)
    return {n: (MASK, MASK) if n in secret else both for n, both in changed.items()}


def change_line(name: str, old: object, new: object, *, indent: str = "", end: str = "") -> str:
    """Return ``NAME: old -> new`` in one line; of a long value the beginning."""
    name = one_line(name)
    room = width() - len(f"{indent}{name}:  -> {end}")
    before, after = shown(old), shown(new)
    # Each may have half the room, and what the other leaves.
    for_before = max(room // 2, room - len(after))
    before = shorten(before, for_before)
    after = shorten(after, room - len(before))
    arrow = f"{click.style(before, fg='red')} -> {click.style(after, fg='green')}"
    return f"{indent}{click.style(name, bold=True)}: {arrow}{end}"


def history(lines: Sequence[Change]) -> Iterator[str]:
    """Yield the history, newest first, the changes of a revision under its head."""
    for number, (revision, group) in enumerate(groupby(lines, key=lambda c: c.revision)):
        of_revision = list(group)
        first = of_revision[0]
        if number:
            yield ""
        head = click.style(f"revision {revision}", fg="yellow", bold=True)
        yield f"{head}  {moment(first.at)}  {_author(first)}"
        if first.comment:
            yield from wrapped(first.comment, first="    ", rest="    ")
        for change in of_revision:
            end = " (default)" if change.is_default else ""
            yield change_line(change.name, change.old, change.new, indent="  ", end=end)


def overtaken(since: Sequence[Change]) -> str:
    """Return who made the changes, the latest first, and what they were."""
    named = [
        f"{_author(change)} changed {change.name} from "
        f"{shorten(shown(change.old), 40)} to {shorten(shown(change.new), 40)} in revision "
        f"{change.revision}" + (f" ({change.comment})" if change.comment else "")
        for change in since[:MOST_NAMED]
    ]
    if len(since) > MOST_NAMED:
        named.append(f"and {len(since) - MOST_NAMED} more changes")
    return "; ".join(named)


def _author(change: Change) -> str:
    """Return who made a change, and through which interface."""
    return f"{one_line(change.actor or '') or '(no name)'} ({change.source})"


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
        yield from _item(problem)


def _summary(fleet: Fleet) -> str:
    missing = (*fleet.missing, *fleet.refused)
    total, hosts = counted(fleet.total, "process"), counted(len(fleet.hosts), "host")
    text = f"{fleet.applied} of {total} on {hosts} at revision {fleet.revision}"
    return click.style(text, fg="red" if missing else "green")


def _host(fleet: Fleet, host: HostStatus, *, is_this: bool) -> Iterator[str]:
    name = click.style(one_line(fleet.label(host)), bold=True)
    where = " (this host)" if is_this else ""
    if host.is_silent:
        silent = f"{describe_silence(host)}; last known:"
        yield f"{name}{where}: {click.style(silent, fg='red')}"
    else:
        yield f"{name}{where}: revision {host.revision}, listener {_listener(host)}"
    if not is_this:  # those of this host are among the problems
        for text in dict.fromkeys((host.listener.error, host.fault)):
            yield from _item(text) if text else ()
    if host.unlisted:
        yield from _item(f"{host.unlisted} of uWSGI's workers have not loaded the application")
    for process in host.processes:
        yield from _process(fleet, process, is_known=not host.is_silent)


def _listener(host: HostStatus) -> str:
    listener = host.listener
    since = f" since {_since(listener.since)}" if listener.since else ""
    return click.style(listener.state, fg="green" if listener.state == "live" else "red") + since


def _process(fleet: Fleet, process: ProcessSlot, *, is_known: bool) -> Iterator[str]:
    """Yield the line of a process: what it is, its revision, since when; and what it does."""
    number = str(process.worker) if process.worker else ""
    line = f"  {process.role:<9}{number:>3}  pid {process.pid:<8}"
    line += f"  revision {process.revision:<7} since {_since(process.since)}"
    refused = process.refused
    if is_known and refused is not None:
        yield click.style(line, fg="red")
        more = f", and {process.refused_count - 1} more" if process.refused_count > 1 else ""
        yield from _item(
            f"refuses {refused.name or 'the settings as a whole'} ({refused.reason}){more}; it "
            f"serves the {refused.serving}"
        )
    elif is_known and fleet.is_served(process.position):
        yield line
    else:
        is_ahead = fleet.position.is_behind(process.position)
        behind = "  ahead of SQL" if is_ahead else "  behind"
        behind = behind if process.follows else "  at its next request"
        yield click.style(
            f"{line}{behind if is_known else ''}", fg="red" if process.follows else None
        )
    if is_known and process.calling:
        running = f"{process.calling} has been running since {_since(process.calling_since)}"
        yield from wrapped(running, first="    ", rest="    ")


def _since(seconds: float) -> str:
    return moment(datetime.fromtimestamp(seconds, timezone.utc)).removesuffix(" UTC")


def _item(text: str) -> Iterator[str]:
    """Yield what is wrong as an item of a list."""
    return (click.style(line, fg="red") for line in wrapped(text, first="  ! ", rest="    "))


def status_json(found: Status) -> dict[str, Any]:
    """Return the status by name."""
    return {
        "revision": found.revision,
        "lineage": found.lineage,
        "converged": not found.fleet.missing and not found.fleet.refused,
        "process": flat(found.process),
        "fleet": fleet_json(found.fleet),
        "ignored": found.ignored,
        "other_lineages": list(found.other_lineages),
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
        "refused": fleet.refused,
        "hosts": [
            {**host_json(fleet, host), "processes": [flat(process) for process in host.processes]}
            for host in fleet.hosts
        ],
    }


# -- the doctor -------------------------------------------------------------------------------


def diagnosis(found: Diagnosis) -> Iterator[str]:
    """Yield what was looked at, then each finding with its fix."""
    for line in found.looked_at:
        yield f"{click.style('ok', fg='green')}    {one_line(line)}"
    for finding in found.findings:
        fg = "red" if finding.is_wrong else "yellow"
        columns = width() - 6
        lines = wrapped(finding.fact, columns=columns)
        lines += wrapped(f"Fix: {finding.fix}", columns=columns)
        word = "wrong" if finding.is_wrong else "note"
        yield f"{click.style(word, fg=fg)}{' ' * (6 - len(word))}{lines[0]}"
        yield from (f"      {line}" for line in lines[1:])
