"""The one door to gevent, which is optional and decided by whoever runs the server.

Asked at the moment of use, never at import: uWSGI's ``gevent-monkey-patch`` patches only when the
worker's loop starts, long after the application was loaded.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from . import _uwsgi
from .errors import ConfigError

__all__ = ["patch_all", "reinit_after_fork", "sockets_are_cooperative", "spawn", "stop_event"]


def is_loaded() -> bool:
    """Return whether anybody in this process has imported gevent."""
    return "gevent" in sys.modules


def sockets_are_patched() -> bool:
    """Return whether the standard sockets are gevent's by now."""
    if not is_loaded():
        return False
    from gevent import monkey

    return bool(monkey.is_module_patched("socket"))


def sockets_are_cooperative() -> bool:
    """Return whether a greenlet started now will find cooperative sockets once it runs."""
    if sockets_are_patched():
        return True
    server = _uwsgi.server
    return server is not None and server.runs_gevent and server.enabled("gevent-monkey-patch")


def patch_all() -> None:
    """Import gevent and patch the standard library, for an application that asks by name.

    :raises ConfigError: gevent is not installed
    """
    try:
        from gevent import monkey
    except ImportError as error:
        message = (
            "WAFFLE_LISTENER = 'gevent', but gevent is not installed. "
            "Run `pip install uwsgi-waffle[gevent]`, or set WAFFLE_LISTENER to 'auto'."
        )
        raise ConfigError(message, key="WAFFLE_LISTENER", value="gevent") from error
    monkey.patch_all()


def reinit_after_fork() -> None:
    """Give a process forked from a master that used gevent a hub of its own.

    Without it a mule hangs in its first blocking call.
    """
    if is_loaded():
        import gevent

        gevent.reinit()


def spawn(target: Callable[[], None]) -> Any:
    """Start *target* in a greenlet and return it."""
    import gevent

    return gevent.spawn(target)


def stop_event() -> Any:
    """Return an event whose ``wait`` lets other greenlets run."""
    from gevent.event import Event

    return Event()
