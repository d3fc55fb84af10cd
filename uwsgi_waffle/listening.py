"""Listening for one application: the listener, what it reports, and the goodbye of the host."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable

from ._redis import BusUnavailable, SharedClient
from .bus import Bus
from .config import Config
from .listener import Listener, StopEvent, run
from .reconcile import Reconciler
from .reporter import Reporter
from .reports import HostReports
from .shared import HostSnapshot

__all__ = ["Listening"]

logger = logging.getLogger(__name__)


class Listening:
    """What a process needs to listen for one application, whether it does or not.

    :ivar reports: the reports of all hosts
    :ivar host_name: the name this host goes by
    """

    def __init__(
        self, config: Config, client: SharedClient, host: HostSnapshot, reconciler: Reconciler
    ) -> None:
        self._config = config
        self._host = host
        self._reconciler = reconciler
        self.bus = Bus(config, client)
        self.reports = HostReports(config, client)
        self.host_name = socket.gethostname()

    def run(
        self,
        moved: Callable[[], None],
        stop: StopEvent,
        note_turn: Callable[[], None] = lambda: None,
    ) -> None:
        """Listen until told to stop.

        :param moved: called when the host snapshot has moved
        :param note_turn: called after each turn
        """
        listener = Listener(
            namespace=self._config.namespace,
            bus=self.bus,
            host=self._host,
            reconciler=self._reconciler,
            poll_seconds=self._config.poll_seconds,
            moved=moved,
        )
        reporter = Reporter(
            host=self._host,
            host_name=self.host_name,
            reports=self.reports,
            listener=listener,
            stale_seconds=self._config.stale_seconds,
        )

        def after_turn() -> float:
            note_turn()
            return reporter.turn()

        try:
            run(listener, stop, after_turn)
        finally:
            self._host.slots.record_listener("absent")

    def say_goodbye(self, wait_seconds: float = 0.0) -> None:
        """Take this process out of the list of the living, and the host with the last of them.

        A host that is merely gone shows as silent for minutes, as one cut off from Redis must.

        :param wait_seconds: how long to wait for processes that end at the same time
        """
        self._host.slots.release()
        deadline = time.monotonic() + wait_seconds
        while any(p.follows and p.pid != os.getpid() for p in self._host.slots.living()):
            if time.monotonic() >= deadline:
                return
            time.sleep(0.02)
        try:
            self.reports.retire(self._host.host_id)
        except BusUnavailable as error:
            logger.info("waffle: this host shows as silent for a while (Redis: %s).", error)
