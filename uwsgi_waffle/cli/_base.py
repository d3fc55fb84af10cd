"""What all commands share: the group, the application, who asks, and how they end."""

from __future__ import annotations

import getpass
import logging
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import wraps
from typing import Any, TypeVar, cast

import click
from flask import current_app
from flask.cli import AppGroup

from uwsgi_waffle.bus.client import BusUnavailable
from uwsgi_waffle.bus.fleet import Fleet, NotConverged
from uwsgi_waffle.errors import RevisionConflict, WaffleError
from uwsgi_waffle.host.files import default_path
from uwsgi_waffle.host.neighbours import Neighbour, neighbours
from uwsgi_waffle.ops.convergence import wait
from uwsgi_waffle.ops.plain import json_text
from uwsgi_waffle.process.applications import EXTENSION_NAME
from uwsgi_waffle.process.state import State
from uwsgi_waffle.process.writes import Update
from uwsgi_waffle.sql.store import Signature

from . import _render

__all__ = ["cli", "json_option", "present_state"]

What = TypeVar("What")

PACKAGE = __name__.partition(".")[0]
#: Seconds that a change is waited for.
WAIT_SECONDS = 5.0


class Failed(click.ClickException):
    """Refused, or not converged: one line on stderr, exit status 1."""

    def __init__(self, error: object) -> None:
        super().__init__(_render.one_line(str(error)))


class WaffleGroup(AppGroup):
    """Ends with one line for what this package raises on purpose, never with a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        logger = logging.getLogger(PACKAGE)
        # Without a handler Python would print warnings, which the commands report themselves.
        # Handlers of the application are left alone.
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
    """See, change, verify and undo live settings."""


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
    """How a change is to be made, and what is to be printed about it."""

    actor: str | None
    comment: str | None
    expect: int | None
    no_wait: bool
    timeout: float
    as_json: bool

    def signature(self, comment: str | None = None) -> Signature:
        """Return who changes something from the command line, and why.

        :param comment: why, where the operator does not say
        """
        actor = self.actor if self.actor is not None else _login_name()
        return Signature(actor, self.comment or comment, "cli")


def change_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of every command that makes a revision; it gets them as *how*."""

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
    """Return the name of the user who is logged in, which ``sudo`` keeps."""
    name = os.environ.get("SUDO_USER")
    if name:
        return name
    with suppress(OSError, KeyError, ImportError):  # a user without a name, as in containers
        return getpass.getuser()
    return f"uid {os.getuid()}"


# -- the application ----------------------------------------------------------------------------


def get_state() -> State:
    """Return the state of the current application, as it was loaded.

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


def echo_json(value: object, *, indent: int | None = 2) -> None:
    """Print a value as JSON: keys in order of meaning, and nothing that a terminal obeys."""
    lines = json_text(value, indent=indent).split("\n")
    click.echo("\n".join(map(_render.printable, lines)))


def note(text: str) -> None:
    """Print a remark on stderr, in one line."""
    click.echo(_render.one_line(text), err=True)


def make_change(
    state: State,
    how: How,
    change: Callable[[What, Signature, int | None], Update],
    what: What,
    *,
    comment: str | None = None,
) -> None:
    """Make a change, and print what it did and how far it has come in the fleet.

    :param change: a method of the writer
    :param what: its first argument
    :param comment: why, where the operator does not say
    :raises Failed: another change came first; names who made it, and what it changed
        or some process does not serve it in time
    """
    try:
        done = change(what, how.signature(comment), how.expect)
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
                "fleet": None if fleet is None else _render.fleet_json(fleet),
            }
        )
    if failure is not None:
        message = f"{failure} The change is made all the same: `flask waffle wait` looks again."
        raise Failed(message) from failure
    if fleet is not None:
        end_with_fleet(state, fleet, failure, as_json=how.as_json)


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


def end_with_fleet(
    state: State, fleet: Fleet, failure: NotConverged | None, *, as_json: bool
) -> None:
    """Print that a revision is everywhere, or fail.

    :raises NotConverged: it is not
    """
    if failure is not None:
        raise failure
    if not as_json:
        click.echo(str(fleet))
    if not fleet.total:
        note(_where_it_looked(state))


def _where_it_looked(state: State) -> str:
    """Return where no process was found, and what else is alive there."""
    config = state.config
    text = (
        "No process of the application is known here. Looked in: database "
        f"{state.store.database.url}, namespace {config.namespace}, host snapshot "
        f"{state.host.path}."
    )
    text += "".join(map(_named, neighbours(default_path(config).parent, state.host.path)))
    with suppress(BusUnavailable):
        known = (state.host.position.lineage, state.host.lineages_before)
        if config.multiproc and state.reports.read(known[0], before=known[1]).other_lineages:
            text += (
                f" Another database is announced on {state.redis.location} under the same channel "
                "and namespace, so the processes may use that one."
            )
    return f"{text} `flask waffle doctor` looks for the reason."


def _named(neighbour: Neighbour) -> str:
    """Return a sentence that names what is alive beside the application."""
    processes = "1 process is" if neighbour.count == 1 else f"{neighbour.count} processes are"
    database = neighbour.database or "another database or namespace"
    return f" {processes} alive here with {database}."


def _explained(state: State, conflict: RevisionConflict) -> Failed:
    """Return a conflict with who made the changes that came first, and what they are."""
    since = [c for c in state.history.changes(limit=200) if c.revision > conflict.expected]
    if not since:
        return Failed(conflict)
    return Failed(
        f"The settings are at revision {conflict.actual}, not {conflict.expected}: "
        f"{_render.overtaken(since)}. If that is as it should be, try again with "
        f"--expect {conflict.actual}."
    )
