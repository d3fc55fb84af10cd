"""What uWSGI's master sets up once per instance: the signal, and the first post-fork hook.

A signal registered in the master has its handler there for good; one registered later, in a
worker, reaches a single worker. The post-fork hook runs in every process that the master forks.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import NoReturn

from . import _uwsgi
from ._uwsgi import Role

__all__ = [
    "can_wake_workers",
    "install",
    "instance_number",
    "mule_number",
    "on_fork",
    "on_wake",
    "post_fork_hook_ran",
    "signal_number",
    "wake_workers",
]

logger = logging.getLogger(__name__)

#: High, because ``@timer`` and similar decorators take the lowest free number.
DEFAULT_SIGNAL = 177
#: Not "workers": that target also fills the queues of workers that ``cheaper`` has stopped.
TARGET = "active-workers"
#: Name of the mule that gets the listener as its program.
MULE_NAME = "waffle"
#: Seconds before a mule whose program failed is replaced.
MULE_RETRY_SECONDS = 5

#: Called in each process that uWSGI forks, except in the waffle mule.
_fork_callbacks: list[Callable[[], None]] = []
#: Called in a worker when the signal arrives.
_wake_callbacks: list[Callable[[], None]] = []
_mule_program: Callable[[], None] | None = None
_installed_in: int | None = None
_registered = False
_instance_number = 0
_post_fork_hook_ran = False


def install(mule_program: Callable[[], None]) -> None:
    """Set up the instance; only the first call before the first fork does anything.

    :param mule_program: the program of the waffle mule, which must not return
    """
    global _installed_in, _instance_number, _mule_program, _registered  # noqa: PLW0603  # one each
    server = _uwsgi.server
    if server is None or _installed_in is not None:
        return
    role = server.role()
    if role not in (Role.MASTER, Role.ALONE):
        return
    _installed_in = os.getpid()
    _instance_number = int.from_bytes(os.urandom(8), "little")
    _mule_program = mule_program
    server.chain_post_fork(_post_fork)
    if role is Role.MASTER:
        _registered = _register(server)
    from . import traps

    for finding in traps.find(server):
        logger.warning("waffle: %s", finding)


def can_wake_workers() -> bool:
    """Return whether a signal from this process wakes every worker of this instance."""
    return _registered


def wake_workers() -> bool:
    """Raise the signal, and return whether there was one to raise.

    uWSGI drops signals when a queue is full, and a busy worker runs its handler late. The signal
    only makes a change arrive sooner; the host snapshot makes the next request right.
    """
    server = _uwsgi.server
    if server is None or not _registered:
        return False
    server.signal(signal_number())
    return True


def instance_number() -> int:
    """Return a random number that all processes of this instance have, and of no other one.

    The pid of the master is not such a number: that of another container may be the same.
    """
    return _instance_number


def post_fork_hook_ran() -> bool:
    """Return whether our post-fork hook ran here; if not, other code has overwritten it."""
    return _post_fork_hook_ran


def signal_number() -> int:
    """Return the number of the signal: ``waffle-signal``, or :data:`DEFAULT_SIGNAL`."""
    server = _uwsgi.server
    number = server.number("waffle-signal") if server is not None else None
    return DEFAULT_SIGNAL if number is None or number > 255 else number  # noqa: PLR2004  # 8 bits


def mule_number() -> int | None:
    """Return the number of the waffle mule, ``None`` where none is configured.

    uWSGI shows Python only the last of several ``mule`` lines, so where there are several,
    ``waffle-mule`` names the one.
    """
    server = _uwsgi.server
    if server is None:
        return None
    chosen = server.number("waffle-mule")
    if chosen is not None:
        return chosen
    return 1 if server.option("mule") == MULE_NAME else None


def on_fork(callback: Callable[[], None]) -> None:
    """Call *callback* in every worker, spooler and other mule that is forked from now on."""
    _fork_callbacks.append(callback)


def on_wake(callback: Callable[[], None]) -> None:
    """Call *callback* when the signal arrives, in this process and in those forked from it."""
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
        "next request, but idle workers are not woken. Set `waffle-signal` to a free number.",
        number,
        reason,
    )
    return False


def _handle_signal(_number: int) -> None:
    """Run the wake callbacks; an exception that left this function would end the worker."""
    for callback in _wake_callbacks:
        _run(callback, "waking this worker")


def _post_fork() -> None:
    """Set up a new process; an exception that left this function would skip later hooks."""
    global _post_fork_hook_ran  # noqa: PLW0603  # one state per process
    _post_fork_hook_ran = True
    server = _uwsgi.server
    if server is not None and server.role() is Role.MULE and server.mule_id() == mule_number():
        _run_mule()
    for callback in _fork_callbacks:
        _run(callback, "setting this process up after its fork")


def _run_mule() -> NoReturn:
    """Run the mule's program for as long as the mule lives; if it fails, end the process.

    To return would leave a mule without a program, and uWSGI would not report it. uWSGI replaces
    a mule that ends at once, hence the wait.
    """
    try:
        if _mule_program is not None:
            _mule_program()
    except BaseException:
        logger.exception(
            "waffle: the mule could not start its listener. uWSGI starts another mule in %d s; "
            "until one listens, requests see changes by polling SQL.",
            MULE_RETRY_SECONDS,
        )
        time.sleep(MULE_RETRY_SECONDS)
    finally:
        os._exit(1)


def _run(callback: Callable[[], None], what: str) -> None:
    try:
        callback()
    except BaseException:  # SystemExit too would end the process
        logger.exception("waffle: %s failed; its next request completes the setup.", what)
