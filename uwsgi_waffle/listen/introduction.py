"""Making a host known before it serves what it has compared with SQL."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from uwsgi_waffle.config import Config
from uwsgi_waffle.errors import StoreUnavailable
from uwsgi_waffle.host.records import HostSnapshot
from uwsgi_waffle.host.turns import only_reader
from uwsgi_waffle.sql.hosts import HostRegistry

from .reconcile import Reconciler

__all__ = ["REGISTER_SECONDS", "Introduction", "host_name"]

#: Seconds after which a host registers again, see :data:`uwsgi_waffle.sql.hosts.FORGET_SECONDS`.
REGISTER_SECONDS = 100.0


def host_name() -> str:
    """Return the name of this host, which Linux takes as any bytes, as a text that SQL takes."""
    return os.fsencode(socket.gethostname()).decode("utf-8", "replace")


class Introduction:
    """Registers a host in SQL, then compares it with SQL.

    A process that proves a state looks for hosts after the commit. A host that it does not find
    registers later, compares with SQL after that, and so serves the state. In the other order a
    request could be served what is older than a proof.

    :ivar reconciler: what compares it
    """

    def __init__(
        self,
        config: Config,
        host: HostSnapshot,
        registry: HostRegistry,
        reconciler: Reconciler,
        host_name: str,
    ) -> None:
        """Make nothing known yet."""
        self._uses_redis = config.multiproc
        self._host = host
        self._registry = registry
        self.reconciler = reconciler
        self._host_name = host_name

    @property
    def is_due(self) -> bool:
        """Whether this process is to be waited for, and its host may not be known."""
        if not self._uses_redis or not self._host.slots.follows:
            return False
        # Twice: a listener that registers it again may be late.
        return not self._host.was_registered_within(2 * REGISTER_SECONDS)

    @contextmanager
    def introducing(self, wait_seconds: float) -> Iterator[bool]:
        """Register this host, or wait until another process has; yield whether to compare it now.

        It is known once the caller has done so.

        :param wait_seconds: how long to wait for that process
        """
        with only_reader(self._host, wait_seconds=wait_seconds) as is_held:
            if not is_held or not self.is_due:
                yield False
                return
            is_registered = self._register()
            yield True
            self._host.note_asked()
            if is_registered:
                self._host.note_registered()

    def _register(self) -> bool:
        """Return whether SQL took it; it may be readable all the same."""
        try:
            self._registry.register(self._host.host_id, self._host_name)
        except StoreUnavailable:
            return False
        return True
