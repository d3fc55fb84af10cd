"""The only module that imports ``uwsgi``, which exists only inside the uWSGI server.

Elsewhere :data:`server` is ``None``. Options are normalised once, here: ``uwsgi.opt`` holds
``bytes`` or ``True``: "off" is a truthy ``b"false"`` and "on" may be a falsy ``b""``.
Standard library only: the uWSGI master imports this before anything else.
"""

from __future__ import annotations

import enum
import os
import sys
from collections.abc import Callable
from typing import Any

try:
    import uwsgi as _module
except ImportError:
    _module = None
# A folder named "uwsgi" imports as an empty namespace package.
if not hasattr(_module, "worker_id"):
    _module = None

_OFF = frozenset({"false", "off", "no", "0"})


class Role(enum.Enum):
    """What a process is within its uWSGI instance."""

    MASTER = "master"
    WORKER = "worker"
    MULE = "mule"
    SPOOLER = "spooler"
    #: Before the fork of an instance that has no master.
    ALONE = "alone"


class Server:
    """The running uWSGI instance, as this process sees it."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def role(self) -> Role:
        """Return what this process is; not kept, since a fork changes it."""
        if self._module.worker_id() > 0:
            return Role.WORKER
        if self._module.mule_id() > 0:
            return Role.MULE
        if self._module.i_am_the_spooler():
            return Role.SPOOLER
        return Role.MASTER if self.master_pid() == os.getpid() else Role.ALONE

    def worker_id(self) -> int:
        """Return this worker's number, from 1; 0 outside a worker."""
        return int(self._module.worker_id())

    def mule_id(self) -> int:
        """Return this mule's number, from 1; 0 outside a mule."""
        return int(self._module.mule_id())

    def master_pid(self) -> int:
        """Return the master's pid, which a reload keeps; 0 where there is no master."""
        return int(self._module.masterpid())

    @property
    def worker_count(self) -> int:
        """How many workers the instance may have."""
        return int(self._module.numproc)

    def running_workers(self) -> int:
        """Return how many workers run at the moment, without those that ``cheaper`` stopped."""
        workers = self._module.workers()
        return sum(worker["pid"] > 0 and worker["status"] != b"cheap" for worker in workers)

    @property
    def version(self) -> tuple[int, int, int]:
        """The server's version."""
        major, minor, patch = self._module.version_info[:3]
        return int(major), int(minor), int(patch)

    @property
    def runs_threads(self) -> bool:
        """Whether threads run between requests; before 2.0.27 the options do not show it."""
        return bool(self._module.has_threads)

    @property
    def runs_gevent(self) -> bool:
        """Whether the workers' loop is gevent's."""
        return bool(self._module.loop == b"gevent")

    def option(self, name: str) -> str | None:
        """Return an option's text: ``""`` without a value, ``None`` where it is not set.

        Of a repeated option uWSGI shows Python the last value only. To uWSGI `` ;`` and what
        follows it on a line is a part of the value; the author of the file meant a comment.
        """
        value = self._module.opt.get(name)
        if value is None:
            return None
        text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
        return "" if value is True else text.partition(" ;")[0].strip()

    def enabled(self, name: str) -> bool:
        """Return whether an option is set and not set to false."""
        value = self.option(name)
        return value is not None and value.lower() not in _OFF

    def number(self, name: str) -> int | None:
        """Return an option as a whole number, ``None`` where it is absent or is not one."""
        value = self.option(name)
        return int(value) if value and value.isdecimal() else None

    def register_signal(self, number: int, target: str, handler: Callable[[int], None]) -> None:
        """Register a signal for the whole instance; only the master can.

        :raises ValueError: the number is taken, or this process is not the master
        """
        self._module.register_signal(number, target, handler)

    def signal_registered(self, number: int) -> bool:
        """Return whether the number has a handler in this process's row of the table."""
        return bool(self._module.signal_registered(number))

    def signal(self, number: int) -> None:
        """Raise a signal, which uWSGI drops silently when its queue is full."""
        self._module.signal(number)

    def set_watchdog(self, seconds: int) -> None:
        """Have the master kill this process unless called again in *seconds*; 0 switches it off."""
        self._module.set_user_harakiri(seconds)

    def chain_post_fork(self, hook: Callable[[], None]) -> None:
        """Run *hook*, which must not raise, first in every process that the master forks.

        ``uwsgidecorators`` overwrites ``uwsgi.post_fork_hook`` when it is imported, so it is
        imported here, before other code can; hooks that were there are kept.
        """
        previous = getattr(self._module, "post_fork_hook", None)
        decorators = self._decorators()
        if decorators is None:
            self._module.post_fork_hook = _chained(hook, previous)
            return
        chain = decorators.postfork_chain
        if previous is not None and previous is not decorators.postfork_chain_hook:
            chain.insert(0, previous)
        chain.insert(0, hook)
        self._module.post_fork_hook = decorators.postfork_chain_hook

    def _decorators(self) -> Any:
        """Return ``uwsgidecorators``, ``None`` where it cannot be imported.

        It refuses to load without a master, and some distributions package it separately.
        """
        if "uwsgidecorators" in sys.modules or not self.master_pid():
            return sys.modules.get("uwsgidecorators")
        try:
            import uwsgidecorators
        except ImportError:
            return None
        return uwsgidecorators


def _chained(first: Callable[[], None], then: Callable[[], None] | None) -> Callable[[], None]:
    """Return a hook that runs *first*, then *then*."""

    def hook() -> None:
        first()
        if then is not None:
            then()

    return hook


#: The instance this process belongs to, ``None`` outside uWSGI.
server: Server | None = Server(_module) if _module is not None else None
