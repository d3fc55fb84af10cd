"""Where the listener runs that wakes this process, decided when the process starts."""

from __future__ import annotations

import enum
import logging

from uwsgi_waffle.config import Config
from uwsgi_waffle.server import _uwsgi, concurrency, hooks
from uwsgi_waffle.server._uwsgi import Role
from uwsgi_waffle.server.concurrency import Environment, ThreadEnvironment

from .candidate import Candidate

__all__ = ["UWSGI_PROCESSES", "Place", "decide", "follows", "start"]

logger = logging.getLogger(__name__)

#: What uWSGI forks from its master.
UWSGI_PROCESSES = (Role.WORKER, Role.MULE, Role.SPOOLER)


class Place(enum.Enum):
    """Where the listener runs that wakes this process for changes."""

    #: Nowhere: each request checks by itself.
    NOWHERE = "none"
    #: In a mule of this instance.
    MULE = "mule"
    #: In one elected worker of this instance, perhaps this one; uWSGI's signal wakes the others.
    WORKER = "worker"
    #: In a thread or greenlet of one elected process of this host, perhaps this one, which wakes
    #: the threads of the others.
    OWN = "thread"


def decide(config: Config) -> Place:
    """Return where the listener is to run; log it where the set-up does not allow what is asked."""
    if not config.multiproc or config.listener == "none" or concurrency.is_about_to_fork():
        return Place.NOWHERE
    if config.listener in ("thread", "gevent"):
        return Place.OWN
    server = _uwsgi.server
    if server is None:
        if config.listener != "auto":
            _log_misplaced(config, "this process does not run under uWSGI")
            return Place.NOWHERE
        return Place.OWN
    if server.role() is not Role.WORKER:
        # A mule or spooler that runs another program: its reads are right, and need no listener.
        return Place.NOWHERE
    return _decide_in_worker(config, server)


def _decide_in_worker(config: Config, server: _uwsgi.Server) -> Place:
    """Return the place for a uWSGI worker."""
    if not hooks.can_wake_workers():
        _log_no_signals(server)
        return Place.OWN
    if not hooks.post_fork_hook_ran():
        # It did not run in the mule either, so that has no program.
        _log_hook_is_lost(server)
        return Place.WORKER
    if config.listener == "mule" or (config.listener == "auto" and hooks.mule_number() is not None):
        if hooks.mule_number() is None and server.option("mule") is None:
            _log_misplaced(config, "no mule is configured")
        return Place.MULE
    return Place.WORKER


def follows(place: Place) -> bool:
    """Return whether a process of that place is woken for changes, even while it is idle."""
    return place is not Place.NOWHERE


def _log_no_signals(server: _uwsgi.Server) -> None:
    """Log once per instance why uWSGI's signal cannot wake the workers."""
    if server.worker_id() != 1:
        return
    if server.master_pid() == 0:
        fact = "uWSGI runs without a master, so there are no signals"
        fix = "Set `master = true`"
    else:
        fact = "uwsgi_waffle.boot was not loaded in the uWSGI master (lazy-apps)"
        fix = "Add `shared-import = uwsgi_waffle.boot`"
    logger.warning(
        "waffle: %s: no mule listens, but one elected worker, and a thread in each of the others "
        "waits to be woken by it. %s.",
        fact,
        fix,
    )


def _log_hook_is_lost(server: _uwsgi.Server) -> None:
    """Log once per instance why an elected worker listens, even where there is a mule."""
    if server.worker_id() == 1:
        logger.warning(
            "waffle: uwsgi.post_fork_hook was overwritten, so `mule = waffle` gets no program and "
            "workers are set up by their first request; an elected worker listens. Use "
            "`@uwsgidecorators.postfork`, which keeps the hooks of others."
        )


def _log_misplaced(config: Config, fact: str) -> None:
    """Log once per instance that the configured listener cannot run."""
    server = _uwsgi.server
    if server is None or server.worker_id() == 1:
        logger.warning(
            "waffle: WAFFLE_LISTENER = %r, but %s, so no listener runs here. Requests see changes "
            "by polling SQL, within %g s. Set WAFFLE_LISTENER to 'auto'.",
            config.listener,
            fact,
            config.poll_seconds,
        )


def start(config: Config, candidate: Candidate) -> Environment:
    """Have this process listen, or follow the process that does, beside its requests."""
    environment = (
        ThreadEnvironment() if config.listener == "thread" else concurrency.choose_environment()
    )
    try:
        environment.start(candidate.run)
    except RuntimeError as error:
        logger.warning(
            "waffle: the listener of this process cannot start (%s). Requests see changes by "
            "polling SQL, within %g s, and start it once that is possible.",
            error,
            config.poll_seconds,
        )
    return environment


def can_start_before_first_request() -> bool:
    """Return whether a process just forked may start its listener at once.

    Not where gevent is loaded but has not patched yet: a server such as gunicorn patches later,
    which would break a thread that was started before.
    """
    return not concurrency.is_gevent_loaded() or concurrency.sockets_are_cooperative()
