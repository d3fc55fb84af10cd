"""Waking every worker of this uWSGI instance."""

from __future__ import annotations

from . import _uwsgi, boot

__all__ = ["wake_workers"]


def wake_workers() -> bool:
    """Raise our signal, and return whether there was one to raise.

    A nudge, not a delivery: uWSGI drops signals when a queue is full, and a busy worker runs its
    handler late. What makes the next request right is the host snapshot.
    """
    server = _uwsgi.server
    if server is None or not boot.can_fan_out():
        return False
    server.signal(boot.signal_number())
    return True
