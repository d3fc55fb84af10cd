"""What all commands share: the group, the application, who asks, and how they end."""

from __future__ import annotations

import getpass
import json
import logging
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import wraps
from typing import Any, cast

import click
from flask import current_app
from flask.cli import AppGroup

from uwsgi_waffle.bus.fleet import Fleet
from uwsgi_waffle.errors import NotConverged, RevisionConflict, WaffleError
from uwsgi_waffle.ops.convergence import wait
from uwsgi_waffle.process.state import State
from uwsgi_waffle.process.writes import Update, Writer
from uwsgi_waffle.sql.store import Signature

from . import _render

__all__ = ["cli", "json_option", "present_state"]

EXTENSION_NAME = "waffleconf"
PACKAGE = __name__.partition(".")[0]
#: Seconds that a change is waited for.
WAIT_SECONDS = 5.0


class Failed(click.ClickException):
    """Refused, or not converged: one line on stderr, exit status 1."""

    def __init__(self, error: object) -> None:
        super().__init__(" ".join(str(error).split()))


class WaffleGroup(AppGroup):
    """Ends with one line for what this package raises on purpose, never with a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        logger = logging.getLogger(PACKAGE)
        # Without a handler Python prints warnings by itself; commands say for themselves what
        # matters. What the application has set up for its logs is left alone.
        quiet = logging.NullHandler()
        logger.addHandler(quiet)
        try:
            return super().invoke(ctx)
        except WaffleError as error:
            raise Failed(error) from error
        finally:
            logger.removeHandler(quiet)


@click.group("waffle", cls=WaffleGroup)
def cli() -> None:
    """See, change, prove and undo live settings."""


# -- options ----------------------------------------------------------------------------------


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
reveal_option = click.option("--reveal", is_flag=True, help="Show secrets.")
dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Show what would be done; do nothing."
)
timeout_option = click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=WAIT_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for the processes.",
)


@dataclass(frozen=True, slots=True)
class How:
    """How a change is to be made, and what is to be told of it."""

    actor: str | None
    comment: str | None
    expect: int | None
    no_wait: bool
    timeout: float
    as_json: bool

    def signature(self, comment: str | None = None) -> Signature:
        """Return who changes something from the command line, and why.

        :param comment: why, where they do not say
        """
        actor = self.actor if self.actor is not None else _login_name()
        return Signature(actor, self.comment or comment, "cli")


def change_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add what every command that makes a revision takes; it comes as *how*."""

    @wraps(command)
    def with_how(*args: Any, **given: Any) -> None:
        how = How(**{field.name: given.pop(field.name) for field in fields(How)})
        command(*args, how=how, **given)

    wrapped: Callable[..., None] = with_how
    for option in (
        json_option,
        timeout_option,
        click.option("--no-wait", is_flag=True, help="Do not wait until every process has it."),
        click.option(
            "--expect",
            type=click.IntRange(min=0),
            metavar="REVISION",
            help="Refuse unless this is the present revision.",
        ),
        click.option("--comment", metavar="TEXT", help="Why, for the history."),
        click.option(
            "--actor", metavar="NAME", help="Who, for the history.  [default: login name]"
        ),
    ):
        wrapped = option(wrapped)
    return wrapped


def _login_name() -> str | None:
    """Return the name of who is logged in; ``sudo`` remembers who that was."""
    name = os.environ.get("SUDO_USER")
    if name:
        return name
    with suppress(OSError, KeyError, ImportError):  # a user without a name, as in containers
        return getpass.getuser()
    return f"uid {os.getuid()}"


# -- the application ----------------------------------------------------------------------------


def get_state() -> State:
    """Return the state of the application at hand, as it was loaded.

    :raises Failed: it has no WaffleConf
    """
    state = current_app.extensions.get(EXTENSION_NAME)
    if state is None:
        message = (
            f"The application {current_app.name!r} has no WaffleConf. Add one: "
            "`waffle = WaffleConf(app, Settings)`."
        )
        raise Failed(message)
    return cast("State", state)


def present_state() -> State:
    """Return the state, at the present revision of SQL.

    :raises Failed: the application has no WaffleConf
    :raises StoreUnavailable: the database did not answer
    """
    state = get_state()
    state.refresh()
    return state


# -- ends -----------------------------------------------------------------------------------------


def echo_json(value: object) -> None:
    """Print a value as JSON: indented on a terminal and elsewhere, keys in order of meaning."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def note(text: str) -> None:
    """Say something on the side."""
    click.echo(text, err=True)


def make_change(
    state: State,
    how: How,
    change: Callable[[Writer, Signature, int | None], Update],
    *,
    comment: str | None = None,
) -> None:
    """Make a change, and print what it did and what has become of it in the fleet.

    :param change: given the signature and the expected revision
    :param comment: why, where the operator does not say
    :raises Failed: somebody came first; says who, and what they changed
    :raises NotConverged: some process has not taken it in time
    """
    try:
        done = change(state.writer, how.signature(comment), how.expect)
    except RevisionConflict as conflict:
        raise _explained(state, conflict) from conflict
    masked = state.declaration.secrets
    if not how.as_json:
        _echo_changes(done, masked)
    fleet, failure = None, None
    if done.changes and not how.no_wait:
        fleet, failure = wait_for_fleet(state, done.revision, how.timeout)
    if how.as_json:
        echo_json(
            {
                "revision": done.revision,
                "changes": _render.changes_json(done.changes, masked),
                "fleet": None if fleet is None else fleet_json(fleet, failure),
            }
        )
    elif fleet is not None and failure is None:
        echo_fleet(fleet)
    if failure is not None:
        raise failure


def _echo_changes(done: Update, masked: Iterable[str]) -> None:
    for line in _render.changes(done.changes, masked):
        click.echo(line)
    if not done.changes:
        click.echo(f"Nothing to change: revision {done.revision} has these values already.")


def wait_for_fleet(
    state: State, revision: int, timeout: float
) -> tuple[Fleet, NotConverged | None]:
    """Return how far a revision has come in time, and the failure where that is not far enough."""
    try:
        return wait(state, revision, timeout), None
    except NotConverged as failure:
        return failure.fleet, failure


def echo_fleet(fleet: Fleet) -> None:
    """Print that a revision is everywhere."""
    click.echo(str(fleet))
    if not fleet.total:
        note("No process of the application is known to this user; `flask waffle doctor` says why.")


def fleet_json(fleet: Fleet, failure: NotConverged | None) -> dict[str, Any]:
    """Return how far a revision has come, by name."""
    return _render.fleet_json(fleet if failure is None else failure.fleet)


def _explained(state: State, conflict: RevisionConflict) -> Failed:
    """Return a conflict with who came first, and what they changed."""
    since = [c for c in state.history.changes(limit=200) if c.revision > conflict.expected]
    if not since:
        return Failed(conflict)
    return Failed(
        f"The settings are at revision {conflict.actual}, not {conflict.expected}: "
        f"{_render.overtaken(since)}. If that is as it should be, try again with "
        f"--expect {conflict.actual}."
    )
