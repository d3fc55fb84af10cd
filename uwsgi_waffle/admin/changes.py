"""The pages that change: review, save, and going back to an earlier revision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from flask import abort, flash, redirect, request, url_for
from werkzeug.wrappers import Response

from uwsgi_waffle.errors import InvalidSetting, RevisionConflict, UnknownRevision
from uwsgi_waffle.process.writes import Preview

from .edits import (
    FORBIDDEN_ROLLBACK,
    Draft,
    Submission,
    by_name,
    draft,
    make_rollback,
    save,
)
from .fields import normalise
from .forms import ChangeForm, as_revision, digest, is_digest_of
from .pages import page, settings_page
from .viewer import viewer

__all__ = ["edit", "review", "roll_back", "save_review", "show_rollback"]

_CONTROLS = frozenset({"csrf_token", "revision", "comment", "reset", "ask"})


def _submission(form: ChangeForm) -> Submission:
    """Return what a form holds; refuse settings that its sender may not change."""
    names, resets = _texts(), frozenset(request.form.getlist("reset"))
    theirs = frozenset(
        name for name in names.keys() | resets if request.form.get(f"choose-{name}") == "theirs"
    )
    forbidden = sorted((names.keys() | resets) - viewer().editable)
    if forbidden:
        abort(403, f"You have no permission to change {', '.join(forbidden)}.")
    return Submission(form.made_from, names, resets, theirs)


def _texts() -> dict[str, str]:
    """Return the text of each setting; the last of the two that a ticked box sends."""
    return {
        name: normalise(given[-1])
        for name, given in request.form.lists()
        if name.isupper() and name not in _CONTROLS
    }


def _status_of(form: ChangeForm) -> int:
    return 400 if form.is_forged else 422


def edit() -> str:
    """Show the form again, with what was typed, on the way back from the review."""
    form = ChangeForm()
    sent = _submission(form)
    return settings_page(sent.texts, resets=sent.resets, revision=form.made_from)


def review() -> str | tuple[str, int] | Response:
    """Show old and new side by side, before anything is saved."""
    form = ChangeForm()
    problems = form.problems()
    sent = _submission(form)
    if problems:
        body = settings_page(
            sent.texts, resets=sent.resets, revision=form.made_from, problems=problems
        )
        return body, _status_of(form)
    planned = draft(viewer(), sent, is_whole_form=True)
    if planned.errors:
        body = settings_page(
            sent.texts, resets=sent.resets, revision=form.made_from, errors=planned.errors
        )
        return body, 422
    if not planned.lines:
        flash("Nothing to save: every setting has that value already.")
        return redirect(url_for(".settings"), code=303)
    return _review_page(sent, planned), 409 if planned.conflicts else 200


def _review_page(
    sent: Submission, planned: Draft, *, comment: str = "", problems: list[str] | None = None
) -> str:
    """Return the review of a draft, as a form made from the present revision."""
    names = {line.name for line in planned.lines}
    texts = {
        name: text for name, text in sent.texts.items() if name in names | planned.errors.keys()
    }
    secrets = viewer().state.declaration.secrets
    form = ChangeForm(formdata=None, revision=planned.base.revision, comment=comment)
    return page(
        "review",
        form=form,
        lines=planned.lines,
        conflicts=planned.conflicts,
        texts={name: text for name, text in texts.items() if name not in secrets},
        resets=planned.resets,
        digests={
            name: digest(name, text) for name, text in texts.items() if name in secrets and text
        },
        problems=[*(problems or ()), *_sentences(planned.errors)],
        revision=planned.base.revision,
    )


def _sentences(errors: Mapping[str, list[str]]) -> list[str]:
    """Return in sentences what is wrong with settings, and with the whole."""
    return [
        f"{name}: {message}" if name else message
        for name, messages in errors.items()
        for message in messages
    ]


def save_review() -> str | tuple[str, int] | Response:
    """Save what was reviewed, and show how far it has come."""
    form = ChangeForm()
    problems = form.problems()
    sent = _submission(form)
    problems += _secret_problems(sent)
    if problems:
        planned = draft(viewer(), sent, is_whole_form=False)
        body = _review_page(sent, planned, comment=form.comment.data or "", problems=problems)
        return body, _status_of(form)
    unanswered = _unanswered()
    if unanswered is not None:
        # With a form older than the other change it is a conflict again.
        sent = replace(sent, revision=unanswered)
    planned, done = save(viewer(), sent, form.comment.data or "")
    if done is None and not planned.lines and not planned.errors:
        flash("Nothing to save: every setting has that value already.")
        return redirect(url_for(".settings"), code=303)
    if done is None:
        body = _review_page(sent, planned, comment=form.comment.data or "")
        return body, 409 if planned.conflicts else 422
    return redirect(url_for(".revision", revision=done.revision), code=303)


def _unanswered() -> int | None:
    """Return the revision before the first conflict without a choice, if there is one."""
    asked = (entry.partition(":") for entry in request.form.getlist("ask"))
    before = [
        as_revision(revision) - 1
        for name, _, revision in asked
        if request.form.get(f"choose-{name}") not in ("mine", "theirs") and as_revision(revision)
    ]
    return min(before, default=None)


def _secret_problems(sent: Submission) -> list[str]:
    """Return which secrets were not typed the same twice."""
    problems = []
    for key, given in request.form.items():
        name = key.removeprefix("digest-")
        if name == key or name in sent.theirs or name not in viewer().editable:
            continue
        text = sent.texts.get(name, "")
        if not text:
            problems.append(f"{name}: type the secret again, as pages do not contain secrets.")
        elif not is_digest_of(given, name, text):
            problems.append(
                f"{name}: this differs from what was typed before. Type what is to be saved again."
            )
    return problems


def show_rollback(
    revision: int, *, comment: str = "", problems: list[str] | None = None, status: int = 200
) -> str | tuple[str, int]:
    """Show what going back to a revision would change.

    :param problems: why it was not done
    """
    here = viewer()
    problems = list(problems or ())
    planned = Preview(here.snapshot.revision, {}, ())
    is_allowed = True
    try:
        planned = here.state.writer.preview_rollback(revision)
    except UnknownRevision as error:
        problems, status = [*problems, str(error)], 404
    except InvalidSetting as error:
        is_allowed = here.may_change_all(error)
        if is_allowed:
            problems, status = [*problems, *_sentences(by_name(here.findings(error)))], 422
    body = page(
        "rollback",
        form=ChangeForm(formdata=None, revision=planned.revision, comment=comment),
        target=revision,
        revision=planned.revision,
        lines=[
            here.line(name, old, new)
            for name, (old, new) in planned.changes.items()
            if here.permission.may_see(name)
        ],
        forbidden=""
        if is_allowed and planned.changes.keys() <= here.editable
        else FORBIDDEN_ROLLBACK,
        warnings=here.problems(tuple(map(str, planned.unusable))),
        problems=problems,
    )
    return body, status


def roll_back(revision: int) -> str | tuple[str, int] | Response:
    """Go back to a revision, and show how far that has come."""
    here = viewer()
    form = ChangeForm()
    problems = form.problems()
    comment = form.comment.data or ""
    if problems:
        return show_rollback(revision, comment=comment, problems=problems, status=_status_of(form))
    try:
        done = make_rollback(here, revision, comment, "page", expected=form.made_from)
    except RevisionConflict as error:
        problem = (
            f"Revision {error.actual} was made since you opened this page, so nothing was changed. "
            "The rollback would do this now."
        )
        return show_rollback(revision, comment=comment, problems=[problem], status=409)
    except (InvalidSetting, UnknownRevision):
        return show_rollback(revision, comment=comment)
    if not done.changes:
        flash(f"Nothing to do: the settings are equal to revision {revision} already.")
        return redirect(url_for(".history"), code=303)
    return redirect(url_for(".revision", revision=done.revision), code=303)
