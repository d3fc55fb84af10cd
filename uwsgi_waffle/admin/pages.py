"""The pages that show: settings, a revision, the history, a comparison, the status."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import groupby
from typing import Any

from flask import Response, abort, render_template, request

from uwsgi_waffle.errors import StoreUnavailable
from uwsgi_waffle.ops.doctor import examine
from uwsgi_waffle.ops.plain import json_text
from uwsgi_waffle.ops.status import collect
from uwsgi_waffle.sql.history import Change

from .edits import ROLLBACK, settings_at, sql_snapshot
from .fields import Input, shown
from .forms import ChangeForm
from .progress import progress_of
from .viewer import Line, Viewer, viewer

__all__ = [
    "Field",
    "compare",
    "page",
    "settings_page",
    "show_history",
    "show_progress",
    "show_revision",
    "show_status",
]

#: How many revisions a page of history shows.
_PAGE_LENGTH = 20


@dataclass(frozen=True, slots=True)
class Field:
    """One setting on the page: its input, the text in it, and what is shown beside it."""

    input: Input
    text: str
    shown: str
    may_edit: bool
    differs: bool
    is_reset: bool
    is_edited: bool
    change: Change | None
    errors: list[str]

    @property
    def html_type(self) -> str:
        """The type of the input."""
        return "password" if self.input.is_secret else self.input.html_type(self.text)


@dataclass(frozen=True, slots=True)
class RevisionLines:
    """One revision of the history: who, when and why, and the settings that it changed."""

    first: Change
    lines: list[Line]

    @property
    def is_rollback(self) -> bool:
        """Whether its comment begins as that of a rollback, whichever interface made it."""
        return (self.first.comment or "").startswith(ROLLBACK)


def page(template: str, /, **context: Any) -> str:
    """Return a page, with what every page shows."""
    return render_template(
        f"waffle_admin/{template}.html",
        viewer=viewer(),
        app_name=viewer().state.app.name,
        now=datetime.now(timezone.utc),
        asked=request.values.get("q", "").strip(),
        **context,
    )


def settings_page(
    texts: Mapping[str, str] | None = None,
    *,
    resets: frozenset[str] = frozenset(),
    errors: Mapping[str, list[str]] | None = None,
    revision: int | None = None,
    problems: list[str] | None = None,
) -> str:
    """Show the settings, as a form where the viewer may change some; filled with what was sent.

    :param texts: setting name -> the text that was sent
    :param errors: setting name -> what is wrong with it; ``""`` -> what is wrong with the whole
    :param revision: the revision that the form was made from
    :param problems: what is wrong with the form
    """
    here = viewer()
    errors = errors or {}
    snapshot = here.snapshot
    latest: dict[str, Change] = {}
    unavailable = ""
    try:
        latest = here.state.history.latest()
    except StoreUnavailable as error:
        unavailable = f"{error} These are the last known settings."
    asked = request.values.get("q", "")
    fields = [
        _field(here, one, texts or {}, resets, latest, errors.get(one.name, []))
        for one in here.inputs
    ]
    found = {one.input.name for one in fields if one.is_edited or one.errors}
    found |= {one.name for one in here.inputs if _matches(one, asked)}
    groups: dict[str, list[Field]] = {}
    for one in fields:
        groups.setdefault(one.input.group, []).append(one)
    form = ChangeForm(formdata=None, revision=snapshot.revision if revision is None else revision)
    return page(
        "settings",
        form=form,
        groups=groups,
        found=found,
        revision=snapshot.revision,
        unavailable=[unavailable] if unavailable else [],
        whole_errors=[*(problems or ()), *errors.get("", ())],
        wrong=[one for one in fields if one.errors],
        edited=[one for one in fields if one.is_edited],
        stored_problems=here.problems(tuple(map(str, snapshot.refused))),
    )


def _matches(one: Input, asked: str) -> bool:
    words = asked.casefold().split()
    text = f"{one.name} {one.description} {one.group}".casefold()
    return all(word in text for word in words)


def _field(  # noqa: PLR0913, PLR0917  # each is one thing that is shown of a setting
    here: Viewer,
    one: Input,
    texts: Mapping[str, str],
    resets: frozenset[str],
    latest: Mapping[str, Change],
    errors: list[str],
) -> Field:
    value = here.snapshot.values[one.name]
    default = getattr(here.state.declaration.defaults, one.name)
    given = texts.get(one.name)
    text = one.text(value) if given is None or one.is_secret else given
    change = latest.get(one.name)
    return Field(
        input=one,
        text=text,
        shown=shown(value, is_secret=one.is_secret),
        may_edit=one.name in here.editable,
        differs=here.state.declaration.differ(one.name, value, default),
        is_reset=one.name in resets,
        is_edited=one.name in resets or (given is not None and text != one.text(value)),
        change=change,
        errors=errors,
    )


def show_revision(revision: int) -> str:
    """Show which processes serve a revision, and what it changed."""
    here = viewer()
    current_revision = sql_snapshot(here.state).revision
    if revision > current_revision:
        abort(404, f"There is no revision {revision} yet.")
    made = here.state.history.timeline(1, before=revision + 1)
    made = here.visible(change for change in made if change.revision == revision)
    saved_at = made[0].at.timestamp() if made else None
    found = progress_of(here, revision, saved_at)
    return page(
        "revision",
        progress=found,
        revision=revision,
        current_revision=current_revision,
        first=made[0] if made else None,
        lines=here.lines(made),
        saved_at=saved_at,
    )


def show_progress(revision: int) -> Response:
    """Return which processes serve a revision as JSON, for the page to ask again and again."""
    saved_at = request.args.get("at", type=float)
    found = json_text(progress_of(viewer(), revision, saved_at))
    return Response(found, mimetype="application/json")


def show_history() -> str:
    """Show who changed what, when and why, newest first."""
    here = viewer()
    # Databases do not store NUL, and some refuse to look for one.
    name = request.args.get("name", "").replace("\0", "") or None
    before = request.args.get("before", type=_revision)
    if name is not None and not here.permission.may_see(name):
        abort(403, f"You have no permission to see {name}.")
    names = [name] if name is not None else here.permission.see
    changes = here.state.history.timeline(_PAGE_LENGTH + 1, names=names, before=before)
    revisions = _by_revision(here, changes)
    has_more = len(revisions) > _PAGE_LENGTH
    revisions = revisions[:_PAGE_LENGTH]
    return page(
        "history",
        name=name,
        revisions=revisions,
        older=revisions[-1].first.revision if has_more else None,
        current_revision=here.snapshot.revision,
        before=before,
    )


def _revision(text: str) -> int:
    """Return a number within the bounds of SQL's integers, past which there are no revisions."""
    return min(max(int(text), 0), 2**63 - 1)


def _by_revision(here: Viewer, changes: list[Change]) -> list[RevisionLines]:
    """Return the lines of the history that may be seen, by revision."""
    groups = (list(g) for _, g in groupby(here.visible(changes), key=lambda c: c.revision))
    return [RevisionLines(made[0], here.lines(made)) for made in groups]


def compare() -> str:
    """Show what differs between two revisions."""
    here = viewer()
    now = sql_snapshot(here.state)
    newer = request.args.get("b", now.revision, type=int)
    older = request.args.get("a", max(newer - 1, 0), type=int)
    problems = []
    lines: list[Line] = []
    found = [settings_at(here.state, revision, now) for revision in (older, newer)]
    for revision, settings in zip((older, newer), found, strict=True):
        if settings is None:
            problems.append(
                f"There is no revision {revision} to compare: the current one is {now.revision}, "
                "and old ones may have been pruned."
            )
    one, other = found
    if one is not None and other is not None:
        lines = [
            here.line(i.name, one.values[i.name], other.values[i.name])
            for i in here.inputs
            if here.state.declaration.differ(i.name, one.values[i.name], other.values[i.name])
        ]
    return page(
        "compare",
        older=older,
        newer=newer,
        lines=lines,
        problems=problems,
        current_revision=now.revision,
    )


def show_status() -> str:
    """Show every process of every host, and what is not as it should be."""
    here = viewer()
    status = collect(here.state)
    # The doctor's findings may name any setting.
    findings = examine(here.state).findings if here.permission.sees_all else ()
    return page(
        "status",
        status=status,
        problems=here.problems(status.problems),
        findings=[finding for finding in findings if finding.code != "value-unusable"],
        progress=progress_of(here, status.fleet.revision),
    )
