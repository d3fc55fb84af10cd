"""What the uWSGI master needs, as ``shared-import = uwsgi_waffle.boot``.

Imported in the master it registers the signal, whose handler then lives in the master for good
(one registered later, in a worker, reaches one worker only), and puts a hook first in the
post-fork chain, which tells the application of its new process and gives the bare mule its
program. Standard library only: this runs before ``gevent-early-monkey-patch``.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import NoReturn

from . import _uwsgi, traps
from ._uwsgi import Role

__all__ = [
    "can_fan_out",
    "install",
    "mule_number",
    "on_fork",
    "on_wake",
    "signal_number",
    "was_greeted",
]

logger = logging.getLogger(__name__)

#: High, as ``@timer`` and its like take the lowest free number.
DEFAULT_SIGNAL = 177
#: Not "workers": that one also fills the queues of workers that ``cheaper`` has put to rest.
TARGET = "active-workers"
#: Name of the mule that boot gives the listener.
MULE_NAME = "waffle"
#: Seconds before a mule whose program failed is replaced.
MULE_RETRY_SECONDS = 5

#: Called in each process that uWSGI forks, except in our own mule.
_fork_callbacks: list[Callable[[], None]] = []
#: Called in a worker when it is woken.
_wake_callbacks: list[Callable[[], None]] = []
_installed_in: int | None = None
_registered = False
#: Whether uWSGI has greeted this process, or its parent, with our post-fork hook.
_greeted = False


def install() -> None:
    """Prepare the instance; only the first call before the first fork does anything."""
    global _installed_in, _registered  # noqa: PLW0603  # one instance, one process, one state
    server = _uwsgi.server
    if server is None or _installed_in is not None:
        return
    role = server.role()
    if role not in (Role.MASTER, Role.ALONE):
        return
    _installed_in = os.getpid()
    server.chain_post_fork(_post_fork)
    if role is Role.MASTER:
        _registered = _register(server)
    for finding in traps.find(server):
        logger.warning("waffle: %s", finding)


def can_fan_out() -> bool:
    """Return whether a signal from here wakes every worker of this instance."""
    return _registered


def was_greeted() -> bool:
    """Return whether our post-fork hook has run here; if not, somebody has overwritten it."""
    return _greeted


def signal_number() -> int:
    """Return the number of our signal."""
    server = _uwsgi.server
    number = server.number("waffle-signal") if server is not None else None
    return DEFAULT_SIGNAL if number is None or number > 255 else number  # noqa: PLR2004  # 8 bits


def mule_number() -> int | None:
    """Return the number of the mule that is ours, ``None`` where none is configured.

    uWSGI shows Python the last of several ``mule`` lines only, so where there are several,
    ``waffle-mule`` says which one.
    """
    server = _uwsgi.server
    if server is None:
        return None
    chosen = server.number("waffle-mule")
    if chosen is not None:
        return chosen
    return 1 if server.option("mule") == MULE_NAME else None


def on_fork(callback: Callable[[], None]) -> None:
    """Call *callback* in every worker, spooler and foreign mule that is forked from now on."""
    _fork_callbacks.append(callback)


def on_wake(callback: Callable[[], None]) -> None:
    """Call *callback* in this process, and those forked from it, when the workers are woken."""
    _wake_callbacks.append(callback)


def _register(server: _uwsgi.Server) -> bool:
    """Register the signal and return whether it is ours."""
    number = signal_number()
    if not server.signal_registered(number):
        try:
            server.register_signal(number, TARGET, _handle_signal)
        except ValueError as error:
            reason = str(error)
        else:
            return True
    else:
        reason = "the number is taken"
    logger.warning(
        "waffle: uWSGI signal %d could not be registered (%s). Each worker sees a change at its "
        "next request, but idle ones are not woken. Set `waffle-signal` to a free number.",
        number,
        reason,
    )
    return False


def _handle_signal(_number: int) -> None:
    """Run the wake callbacks; nothing may leave this, or uWSGI ends the worker."""
    for callback in _wake_callbacks:
        _run(callback, "waking this worker")


def _post_fork() -> None:
    """Greet a new process; nothing may leave this, or later hooks are skipped."""
    global _greeted  # noqa: PLW0603  # as above
    _greeted = True
    server = _uwsgi.server
    if server is not None and server.role() is Role.MULE and server.mule_id() == mule_number():
        _become_the_mule()
    for callback in _fork_callbacks:
        _run(callback, "setting this process up after its fork")


def _become_the_mule() -> NoReturn:
    """Run the listener for as long as the mule lives; one that cannot gives way to another.

    To return would leave a mule without a program, which nobody would miss. uWSGI replaces at once
    what ends, hence the wait.
    """
    try:
        from .mule import main

        main()
    except BaseException:
        logger.exception(
            "waffle: the mule could not start to listen. Another one tries in %d s; until one "
            "can, requests see changes by polling SQL.",
            MULE_RETRY_SECONDS,
        )
        time.sleep(MULE_RETRY_SECONDS)
    finally:
        os._exit(1)


def _run(callback: Callable[[], None], what: str) -> None:
    try:
        callback()
    except BaseException:  # SystemExit too would end the process
        logger.exception("waffle: %s failed; its next request sets it right.", what)


install()
