"""The listener as the program of a uWSGI mule: ``mule = waffle``, or a file that calls ``main()``.

uWSGI gives a mule neither back-off nor a time limit: it starts a mule whose program ends again at
once, for ever, and leaves one that hangs alone. So this program never ends by itself, and has the
master kill it when a loop stands still.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import threading
import time
from typing import NoReturn

from flask.cli import ScriptInfo

from .errors import WaffleError
from .listen.candidate import Candidate
from .process.state import State, living_states
from .server import _uwsgi, concurrency
from .server._uwsgi import Role
from .server.concurrency import Backoff, ThreadEnvironment, choose_environment

__all__ = ["main"]

logger = logging.getLogger(__name__)

#: Seconds without a turn after which the master kills the mule, which starts it anew.
WATCHDOG_SECONDS = 30
#: Seconds between two looks at the loops.
SUPERVISE_SECONDS = 1.0
#: Seconds to wait for workers that end with the mule, before the host stays listed.
GOODBYE_SECONDS = 0.5

#: One application of ``waffle-app``: no space, but in the arguments of a factory.
_TARGET = re.compile(r"[^\s(]+(?:\([^)]*\))?")


def main() -> NoReturn:
    """Listen for every application of this instance, for as long as the mule lives.

    :raises WaffleError: this process is not a mule
    """
    server = _uwsgi.server
    if server is None or server.role() is not Role.MULE:
        message = "uwsgi_waffle.mule.main() is the program of a mule; this process is not a mule."
        raise WaffleError(message)
    ends = threading.Event()

    def end(_number: int, _frame: object) -> None:
        ends.set()
        # Retiring takes time and I/O, which a handler must not.
        choose_environment().start(lambda _stop: _end(server))

    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        # uWSGI's own handler runs Python's exit from within a signal, which crashes under gevent.
        signal.signal(number, end)
    concurrency.reinit_after_fork()
    states = [state for state in _states(server) if state.config.may_use_mule]
    loops = [MuleLoop(state, server.master_pid()) for state in states]
    if not loops:
        logger.warning(
            "waffle: the mule listens for no application: each has WAFFLE_MULTIPROC off, or a "
            "WAFFLE_LISTENER that is not a mule."
        )
    while True:
        standing_still = [loop for loop in loops if not loop.is_turning()]
        if not standing_still and not ends.is_set():
            server.set_watchdog(WATCHDOG_SECONDS)
        time.sleep(SUPERVISE_SECONDS)


def _end(server: _uwsgi.Server) -> None:
    """Unlist this process, and end the mule at once: there is nothing to flush."""
    try:
        for state in living_states():
            state.retire(GOODBYE_SECONDS)
    finally:
        # Else the master, while it waits for workers, kills what is at the pid of the mule after
        # that time. By then it is 0, which is the master's whole process group.
        server.set_watchdog(0)
        os._exit(0)


class MuleLoop:
    """The listener of one application, in a thread of the mule."""

    def __init__(self, state: State, instance: int) -> None:
        # Another process may be the listener still: a mule from before a reload that has yet to
        # end, or a worker that came first.
        candidate = Candidate(
            state.host, state.loop.run, state.serving.catch_up, master_pid=instance
        )
        self._turned = time.monotonic()
        state.adopt_process(is_listener=True)
        self._environment = ThreadEnvironment()
        self._environment.start(lambda stop: candidate.run(stop, self._note_turn))

    def is_turning(self) -> bool:
        """Return whether the loop lives and has turned lately."""
        age = time.monotonic() - self._turned
        return self._environment.is_alive() and age < 2 * SUPERVISE_SECONDS

    def _note_turn(self) -> None:
        self._turned = time.monotonic()


def _states(server: _uwsgi.Server) -> list[State]:
    """Return the applications' states: inherited, or after loading the application here."""
    backoff = Backoff(1.0, 30.0)
    while not living_states():
        try:
            _load_app(server)
        except (Exception, SystemExit):
            # SystemExit too: it would leave the mule without a program, and uWSGI reports nothing.
            logger.exception("waffle: the mule could not load the application.")
        if not living_states():
            logger.error(
                "waffle: the mule found no application with a WaffleConf, and tries again. Until "
                "then no process listens. Set `waffle-app = module:app`, or `module:factory()`."
            )
            server.set_watchdog(WATCHDOG_SECONDS * 2)
            threading.Event().wait(backoff.next_seconds())
    return living_states()


def _load_app(server: _uwsgi.Server) -> None:
    """Load the application that the workers serve; under lazy-apps a mule inherits none.

    An entry point may be a wrapper around a Flask application: importing it has made the state.
    """
    targets = app_targets(server)
    if not targets:
        logger.error("waffle: uWSGI's options name no application.")
    for target in targets:
        known = living_states()
        try:
            ScriptInfo(app_import_path=target).load_app()
        except Exception:
            if len(living_states()) == len(known):
                raise


def app_targets(server: _uwsgi.Server) -> list[str]:
    """Return the applications, as ``module:name``: those of ``waffle-app``, else uWSGI's own.

    Of several mounts uWSGI shows Python the last one only, so ``waffle-app`` takes several names.
    """
    chosen = _TARGET.findall(server.option("waffle-app") or "")
    own = app_target(server)
    return chosen or ([] if own is None else [own])


def app_target(server: _uwsgi.Server) -> str | None:
    """Return the application that uWSGI's own options name."""
    name = server.option("callable") or "application"
    for option in ("module", "wsgi", "w"):
        module = server.option(option)
        if module:
            return module if ":" in module else f"{module}:{name}"
    for option in ("wsgi-file", "file"):
        path = server.option(option)
        if path:
            return f"{path}:{name}"
    mount = (server.option("mount") or "").partition("=")[2]
    if mount:
        return mount if ":" in mount else f"{mount}:{name}"
    return None
