"""Whether this process is to get requests, and whether it should be started anew.

The answers are for the probes of an orchestrator, which act upon them. So a fault that another
start would not mend, such as a database or a Redis that is away, is a reason in words, and nothing
more. What is known of the host is in the host snapshot; nothing is asked of Redis, nor of SQL
beyond what a read of settings does.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from uwsgi_waffle.bus.fleet import HostStatus
from uwsgi_waffle.errors import WaffleError
from uwsgi_waffle.listen import placement
from uwsgi_waffle.process.state import State
from uwsgi_waffle.server import concurrency
from uwsgi_waffle.values.position import Position

from .convergence import own_host
from .status import problem_of_listener, slow_callbacks

__all__ = ["Health", "check"]

logger = logging.getLogger(__name__)

#: Seconds without a turn after which a listener stands still that has heard Redis in its last one;
#: three polls where they are longer. SQL may take half as long to answer it.
STANDSTILL_SECONDS = 20.0
#: Seconds for one that has not: a name server alone may keep it for half a minute.
SEARCH_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Health:
    """What a probe is told of a process.

    :ivar ready: it serves settings that were loaded, as far as its host knows them
    :ivar live: its listener and that of its host work, as far as they are to; where this is false,
        another start helps
    :ivar reasons: what is wrong, each in a sentence, also where the process is ready and live
    """

    ready: bool
    live: bool
    reasons: tuple[str, ...] = ()


def check(find: Callable[[], State]) -> Health:
    """Return the health of this process; nothing is raised.

    :param find: returns the state of the application, or raises :class:`WaffleError`
    """
    try:
        state = find()
    except WaffleError as error:
        return Health(ready=False, live=True, reasons=(str(error),))
    try:
        return _look(state)
    except Exception as error:
        logger.exception("waffle: the health of this process cannot be told.")
        reason = f"The health of this process cannot be told ({type(error).__name__}); see its log."
        return Health(ready=state.serving.has_loaded, live=True, reasons=(reason,))


def _look(state: State) -> Health:
    wanted = state.host.position
    # As a read does: a process that is not ready may get no other request that would load settings.
    state.serving.fresh()
    host = own_host(state)
    is_not_ready = list(_why_not_ready(state, wanted))
    is_not_live = list(_why_not_live(state, host))
    reasons = [*is_not_ready, *is_not_live, *_remarks(state)]
    listener = problem_of_listener(state, host)
    if listener is not None and _is_woken(state) and not is_not_live:
        reasons.append(listener)
    reasons += map(str, slow_callbacks(host))
    return Health(not is_not_ready, not is_not_live, tuple(reasons))


def _why_not_ready(state: State, wanted: Position) -> Iterator[str]:
    """Yield why this process should get no requests.

    :param wanted: what its host was at before the process caught up
    """
    serving = state.serving
    if not serving.has_loaded:
        yield "This process has loaded no settings yet, and serves the declared defaults."
    elif wanted == state.host.position and wanted.supersedes(serving.current.position):
        yield (
            f"This process serves revision {serving.current.revision}, and cannot take revision "
            f"{wanted.revision} of its host."
        )


def _why_not_live(state: State, host: HostStatus) -> Iterator[str]:
    """Yield what another start would mend."""
    if state.environment is not None and not state.environment.is_alive():
        state.adopt_process()  # again: it starts the listener of this process anew
        if not state.environment.is_alive():
            yield "The listener of this process has ended, and cannot be started again."
    age = state.host.heartbeat_age_seconds()
    if age is not None and _is_woken(state) and _stands_still(state, host, age):
        yield (
            f"The listener of this host has not turned for {age:.0f} s, though SQL answers: "
            "requests compare with SQL themselves."
        )


def _is_woken(state: State) -> bool:
    """Return whether a listener is to wake this process, and can turn between requests."""
    if state.place is None or not placement.follows(state.place):
        return False
    return state.place is placement.Place.MULE or concurrency.threads_run_while_idle()


def _stands_still(state: State, host: HostStatus, age_seconds: float) -> bool:
    """Return whether the listener of this host has stopped turning, through no fault of SQL's.

    One that has never turned belongs to a set-up that cannot work, or has yet to start.

    :param age_seconds: how long ago it turned
    """
    answered = state.host.sql_answer_age_seconds()
    if answered is None or answered >= age_seconds:
        return False  # it may wait for SQL, as everyone who has asked since
    hears = any(process.listener.state == "live" for process in host.processes)
    patience = STANDSTILL_SECONDS if hears else SEARCH_SECONDS
    # One that has waited for SQL, or that has yet to start beside this process, gets time to turn.
    failed = state.host.sql_failure_age_seconds()
    since = min(age_seconds, math.inf if failed is None else failed, state.adopted_seconds_ago())
    return since > max(patience, state.config.stale_seconds)


def _remarks(state: State) -> Iterator[str]:
    """Yield what is wrong with SQL, and with what it holds."""
    current = state.serving.current
    if state.host.sql_answers is False:
        answered = state.host.sql_answer_age_seconds()
        since = "yet" if answered is None else f"for {answered:.0f} s"
        served = f" The last known settings are served: revision {current.revision}."
        yield (
            f"{state.store.database.url} has not answered this host {since}."
            f"{served if state.serving.has_loaded else ''}"
        )
    if current.refused:
        count = len(current.refused)
        values = "1 stored value" if count == 1 else f"{count} stored values"
        yield (
            f"This process refuses {values}, and serves the last good one or the default; "
            "`flask waffle status` has the reasons."
        )
