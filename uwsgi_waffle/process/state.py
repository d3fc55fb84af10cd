"""One application's settings in one process: the parts, and the life of the process around them."""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uwsgi_waffle.config import Config
from uwsgi_waffle.errors import StoreUnavailable
from uwsgi_waffle.listen import placement
from uwsgi_waffle.listen.candidate import Candidate
from uwsgi_waffle.listen.introduction import Introduction
from uwsgi_waffle.listen.loop import ListenerLoop
from uwsgi_waffle.listen.reporter import Reporter
from uwsgi_waffle.server import _uwsgi, concurrency, endings, forks, hooks
from uwsgi_waffle.server._uwsgi import Role
from uwsgi_waffle.sql.application import ApplicationDatabase

from .asking import Asker
from .callbacks import ChangeQueue
from .overrides import Override
from .parts import Common, Parts
from .pins import Pins
from .serving import Serving
from .writes import Writer

if TYPE_CHECKING:
    from flask import Flask

__all__ = ["State", "living_states"]

logger = logging.getLogger(__name__)

_states: weakref.WeakSet[State] = weakref.WeakSet()


def living_states() -> list[State]:
    """Return the states of this process, for the mule that listens for all of them."""
    return list(_states)


class State(Parts):
    """``app.extensions["waffleconf"]``: the settings of one application in this process.

    :ivar serving: what this process serves
    :ivar pins: which snapshot a piece of code sees
    :ivar writer: how settings are changed
    :ivar place: how this process is woken for changes, once that is decided
    :ivar environment: the thread or greenlet that listens in this process, if one does
    """

    def __init__(
        self, app: Flask, config: Config, common: Common, database: ApplicationDatabase | None
    ) -> None:
        """Load the settings, or what replaces them; start nothing that a fork would break."""
        super().__init__(app, config, common, database)
        self.declaration.check_known(common.callbacks.names)
        self._reporter = Reporter(
            config, self.host, self.reports, self.registry, self.declaration.digest
        )
        introduction = Introduction(
            config, self.host, self.registry, self.reconciler, self.host_name
        )
        open_names = frozenset(self.declaration.names) - self.declaration.secrets
        self.loop = ListenerLoop(self.bus, self.host, introduction, self._reporter, open_names)
        self.place: placement.Place | None = None
        self.environment: concurrency.Environment | None = None
        self._asker = Asker(self.host, introduction, config.poll_seconds)
        self._queue = ChangeQueue(app, common.callbacks, self.host.slots.record_callback)
        self._pid = os.getpid()
        self._claims: dict[int, object] = {}
        self._adopted_at = 0.0
        self._was_uwsgi_process = False
        #: The process at whose end it, and with the last one the host, is retired.
        self._retires_in = 0
        self._restarting = threading.Lock()
        _make_instance_folder(app, config)
        self._read_at_start()
        self.serving = Serving(self, self._asker, self._queue, _weak(self.adopt_process))
        self._log_start()
        self.pins = Pins(app, self.declaration, self.host, self.serving, common.overrides)
        self.writer = Writer(self, self.serving)
        self._overrides = common.overrides
        if config.templates:
            app.context_processor(lambda: {"waffle": self.pins.seen().settings})
        _states.add(self)
        self._watch_process()

    # -- start --------------------------------------------------------------------------------

    def _read_at_start(self) -> None:
        """Move the host snapshot to SQL, unless a listener of this host keeps it there."""
        age = self.host.heartbeat_age_seconds()
        if age is None or age > self.config.stale_seconds or self.host.read() is None:
            has_seen_settings = self.host.position.exists
            with suppress(StoreUnavailable):  # the reconciler has logged it
                record = self.reconciler.reconcile(at_start=True)
                # Not where a database was emptied: the operator may be restoring it.
                is_due = record is not None and not record.keys
                is_due = is_due and not has_seen_settings
                if is_due and self.reconciler.create_namespace(at_start=True):
                    self.reconciler.reconcile(at_start=True)
        # This may be a master about to fork; a process that needs SQL again makes a connection.
        if not self.config.is_in_memory:  # which its only connection holds
            self.store.database.close()

    def _log_start(self) -> None:
        if self.reconciler.error is not None:
            served = self.serving.current
            source = (
                f"revision {served.revision}" if served.position.exists else "the declared defaults"
            )
            logger.warning("waffle: starting with %s, as SQL does not answer.", source)

    def _watch_process(self) -> None:
        """Arrange for this process, and those forked from it, to be set up when it is time."""
        if self.config.listener == "gevent" and not concurrency.sockets_are_cooperative():
            concurrency.patch_all()
        forks.watch(self)
        hooks.on_wake(_weak(self.serving.wake))
        server = _uwsgi.server
        if server is not None and server.role() is Role.WORKER:
            self.adopt_process()  # lazy-apps: the fork has happened
        # Elsewhere a fork may follow, and would lose a thread started now: a request starts it.

    def before_fork(self) -> None:
        """Give up what a child must not inherit."""
        self.store.database.before_fork()

    def after_fork_in_parent(self) -> None:
        """Retire the host at the end of this process: its children may end without that."""
        if _uwsgi.server is None:
            self._retire_at_end()

    def after_fork(self, *, by_uwsgi: bool) -> None:
        """Set up a process that was just forked, as far as that is safe before a request.

        :param by_uwsgi: uWSGI's post-fork hook calls, so all that uWSGI says of the child is right
        """
        self._leave_parent()
        # A child that the application forks in a uWSGI process is set up when it first reads a
        # setting: it may run another program, or never read one.
        elsewhere = _uwsgi.server is None and placement.can_start_before_first_request()
        if elsewhere or by_uwsgi:
            self.adopt_process()

    def adopt_process(self, *, is_listener: bool = False) -> None:
        """List this process and start its listener; the first call in a process does it.

        Later calls start a listener again that could not start, or has ended.

        :param is_listener: the process exists to listen, and runs the listener itself
        """
        mine = object()
        if self._claims.setdefault(os.getpid(), mine) is not mine:
            self._restart_listener()
            return
        self._adopted_at = time.monotonic()
        self._leave_parent()
        self.serving.expect_check()
        self.host.verify()
        self._retire_at_end()
        self.serving.runs_callbacks = not is_listener
        if is_listener:
            self._register(follows=True, alone_as="listener")
            self.serving.catch_up()
            return
        server = _uwsgi.server
        is_child = self._was_uwsgi_process  # forked by the application, not by uWSGI
        self._was_uwsgi_process = server is not None and server.role() in placement.UWSGI_PROCESSES
        self.place = placement.Place.NOWHERE if is_child else placement.decide(self.config)
        self._register(follows=placement.follows(self.place), is_child=is_child)
        self.environment = self._start_listener(self.place)
        # A respawned worker has inherited what the master served first: the values that its memory
        # was made with, so its callbacks are given those as the old ones.
        self.serving.catch_up()
        self.serving.start_callbacks()

    def adopted_seconds_ago(self) -> float:
        """Return how long ago this process was set up."""
        return time.monotonic() - self._adopted_at

    def _start_listener(self, place: placement.Place) -> concurrency.Environment | None:
        if place not in (placement.Place.WORKER, placement.Place.OWN):
            return None
        is_signalled = place is placement.Place.WORKER
        server = _uwsgi.server
        candidate = Candidate(
            self.host,
            self.loop.run,
            _weak(self.serving.catch_up),
            master_pid=server.master_pid() if server is not None and is_signalled else 0,
        )
        environment = placement.start(self.config, candidate)
        # Not at the end of the process: a daemon thread and a greenlet end with it anyway.
        weakref.finalize(self, environment.request_stop).atexit = False
        return environment

    def _restart_listener(self) -> None:
        """Start the listener of this process again if it does not run, though it should."""
        if self.place is None or not self._restarting.acquire(blocking=False):
            return
        try:
            if self.environment is not None and not self.environment.is_alive():
                self.environment = self._start_listener(self.place)
        finally:
            self._restarting.release()

    def retire(self, wait_seconds: float = 0.0) -> None:
        """Unlist this process, and with the last process its host.

        :param wait_seconds: how long to wait for processes that end at the same time
        """
        self._reporter.retire(wait_seconds)

    def _retire_at_end(self) -> None:
        if self._retires_in != os.getpid():
            self._retires_in = os.getpid()
            endings.call_at_end(_weak(self._retire_if_known))

    def _retire_if_known(self) -> None:
        # The children of a process that is not listed itself may have made the host known.
        if self.host.slots.is_registered or self.host.is_registered:
            self.retire()

    def _leave_parent(self) -> None:
        """Drop what must not cross a fork; nothing of it is closed, as it is the parent's.

        Not in the process that made it: the first request there, too, finds it not adopted, and
        may come from a callback.
        """
        if self._pid == os.getpid():
            return
        self._pid = os.getpid()
        self.store.database.after_fork()
        self.redis.after_fork()
        self.serving.after_fork()
        self._queue.after_fork()
        self._asker.after_fork()
        self.environment = None
        self._restarting = threading.Lock()

    def _register(
        self, *, follows: bool, alone_as: str = "process", is_child: bool = False
    ) -> None:
        """List this process among those of the host.

        :param alone_as: its role outside uWSGI
        :param is_child: it was forked by a uWSGI process, whose role and number it has inherited
        """
        server = _uwsgi.server
        if server is None or is_child:
            self.host.register(alone_as, follows=follows)
        else:
            role = server.role()
            self.host.register(
                role.value if role in placement.UWSGI_PROCESSES else "process",
                server.worker_id() or server.mule_id(),
                server.master_pid(),
                follows=follows,
            )
        self.serving.record()

    # -- as asked by the extension ------------------------------------------------------------

    def refresh(self) -> bool:
        """Read SQL now, and return whether that brought newer settings.

        :raises StoreUnavailable: the database did not answer
        """
        before = self.serving.current
        self.reconciler.reconcile()
        self.serving.follow()
        return self.serving.current is not before

    def override(self, values: Mapping[str, object]) -> Override:
        """Return what sees other values, see ``WaffleConf.override``."""
        return Override(
            self._overrides, values, find_app=lambda: self.app, check=self.pins.see_overrides
        )

    # -- as asked by code for Flask-WaffleConf ------------------------------------------------

    def parse_conf(self, keys: Sequence[str] = ()) -> dict[str, Any]:
        """Return settings by name, all of them where no *keys* are given.

        :raises UnknownSetting: a key is not declared
        """
        self.declaration.check_known(keys)
        values = self.serving.fresh().values
        return {name: values[name] for name in (keys or self.declaration.names)}

    def update_db(self, values: Mapping[str, Any]) -> None:
        """Store values, announce them and serve them; raises as ``WaffleConf.update`` does."""
        self.writer.update(values)

    def update_conf(self) -> None:
        """Compare with SQL, and serve newer settings.

        :raises StoreUnavailable: the database did not answer
        """
        self.refresh()


def _make_instance_folder(app: Flask, config: Config) -> None:
    """Make the folder of a database that lives in the instance folder."""
    path = Path(app.instance_path)
    if config.database_uri.startswith("sqlite") and f"{path}{os.sep}" in config.database_uri:
        with suppress(OSError):  # opening the database says what is wrong
            path.mkdir(parents=True, exist_ok=True)


def _weak(method: Callable[[], None]) -> Callable[[], None]:
    """Return a function that calls a bound method for as long as its object lives."""
    reference = weakref.WeakMethod(method)

    def call() -> None:
        alive = reference()
        if alive is not None:
            alive()

    return call
