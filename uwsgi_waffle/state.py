"""One application's settings in one process: what it serves, and how it stays right.

The path of a change ends here: request start, signal or listener → :meth:`State.catch_up` →
decode, validate, swap one reference, run the callbacks.
"""

from __future__ import annotations

import atexit
import logging
import os
import time
import weakref
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from . import _gevent, _uwsgi, boot, forks, placement
from ._redis import RedisClient, SharedClient
from ._uwsgi import Role
from .asking import Asker
from .callbacks import Callbacks, ChangeQueue
from .cipher import Cipher
from .config import Config
from .confs import model_from_confs
from .election import Election
from .environment import Environment
from .errors import StoreUnavailable
from .listening import Listening
from .reconcile import Reconciler
from .requests import Pins
from .settings import Declaration, WaffleSettings
from .shared import HostSnapshot
from .shared.files import default_path
from .shared.layout import SEQUENCE_WORD
from .snapshot import NO_LINEAGE, Holder, Record, Snapshot, build
from .store import Store

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask import Flask

__all__ = ["State", "living_states"]

logger = logging.getLogger(__name__)

#: In seconds of the monotonic clock; not 0, which says that a process is not adopted yet.
LONG_AGO = 1e-9

_states: weakref.WeakSet[State] = weakref.WeakSet()


def living_states() -> list[State]:
    """Return the states of this process, for the mule that serves them all."""
    return list(_states)


class State:
    """The settings of one application in this process.

    :ivar config: the frozen configuration
    :ivar declaration: which settings there are
    :ivar holder: the snapshot that is served
    :ivar host: the snapshot that this host shares
    :ivar pins: which snapshot a piece of code sees
    :ivar check_at: when :meth:`freshen` is due whatever the host does, in seconds of the monotonic
        clock; 0 in a process that is not adopted yet, such as one just forked
    :ivar seen_sequence: of the host snapshot, as far as it is served
    :ivar place: where this process gets its news from, once it is decided
    """

    def __init__(
        self,
        app: Flask,
        config: Config,
        model: type[WaffleSettings] | None,
        callbacks: Callbacks,
        redis: RedisClient | None,
    ) -> None:
        """Load the settings, or what stands in for them; start nothing that a fork would break."""
        self.app = app
        self.config = config
        self.declaration = Declaration(model or model_from_confs(config.confs or {}))
        self.declaration.check_known(callbacks.names)
        self.cipher = Cipher(config.encryption_keys)
        self.store = Store(config)
        self.redis = SharedClient(config, redis)
        path = config.snapshot_path or default_path(config)
        self.host = HostSnapshot(path, config.namespace)
        self.reconciler = Reconciler(self.store, self.host, config.poll_seconds)
        self._asker = Asker(self.host, self.reconciler, config.poll_seconds)
        self.listening = Listening(config, self.redis, self.host, self.reconciler)
        self.queue = ChangeQueue(app, callbacks)
        self.place: placement.Place | None = None
        self.environment: Environment | None = None
        self.check_at = forks.make_own_number()
        self._pid = os.getpid()
        self._claims: dict[int, object] = {}
        self.seen_sequence = -1
        self._owes_rows = False
        self._runs_callbacks = True
        _make_instance_folder(app, config)
        self.holder = Holder(self._first_snapshot(), self._swapped)
        app.config.update(self.holder.current.values)
        self.pins = Pins(self)
        _states.add(self)
        self._watch_process()

    # -- start --------------------------------------------------------------------------------

    def _first_snapshot(self) -> Snapshot:
        """Return the present settings, else the last known good ones, else the defaults."""
        age = self.host.heartbeat_age_seconds()
        if age is None or age > self.config.stale_seconds or self.host.read() is None:
            with suppress(StoreUnavailable):  # the reconciler has said so
                self.reconciler.take(at_start=True)
        found = self.host.read()
        record = Record() if found is None else found[1]
        self.seen_sequence = -1 if found is None else found[0]
        served = record if record.rows is not None else self._first_rows(record)
        # This may be a master about to fork; whoever needs SQL again connects for itself.
        self.store.database.close()
        if self.reconciler.error is not None:
            source = f"revision {served.revision}" if served.lineage else "the declared defaults"
            logger.warning("waffle: starting with %s, as SQL does not answer.", source)
        snapshot = build(self.declaration, self.cipher, served)
        for problem in snapshot.problems:
            logger.warning("waffle: %s", problem)
        return snapshot

    def _first_rows(self, record: Record) -> Record:
        """Return what SQL holds, as the host snapshot had no room for its rows; else nothing."""
        found = Record()
        with suppress(StoreUnavailable):  # the reconciler has said so
            found = self.reconciler.read()
        self._owes_rows = not found.reaches(record.lineage, record.revision)
        return found

    def _watch_process(self) -> None:
        """Arrange for this process, and those forked from it, to be set up when it is time."""
        if self.config.listener == "gevent" and not _gevent.sockets_are_cooperative():
            _gevent.patch_all()
        boot.install()
        forks.watch(self)
        boot.on_wake(_weak(self.wake))
        server = _uwsgi.server
        if server is not None and server.role() is Role.WORKER:
            self.adopt_process()  # lazy-apps: the fork is behind us
        # Elsewhere a fork may follow, and would lose a thread started now: a request starts it.

    def after_fork(self) -> None:
        """Set up a process that was just forked, as far as it is safe to do before a request."""
        self._leave_parent()
        server = _uwsgi.server
        # With py-call-uwsgi-fork-hooks or py-call-osafterfork this comes before uWSGI has said all
        # about the child; its own hook, or else the first request, comes after.
        elsewhere = server is None and placement.can_start_before_first_request()
        if elsewhere or boot.was_greeted():
            self.adopt_process()

    def adopt_process(self, *, is_listener: bool = False) -> None:
        """Make this process known and start its listener; the first call in a process does it.

        :param is_listener: the process exists to listen, and sees to that itself
        """
        mine = object()
        if self._claims.setdefault(os.getpid(), mine) is not mine:
            return
        self._leave_parent()
        self.check_at[0] = LONG_AGO  # so the first request asks
        self.host.verify()
        atexit.register(_weak(self.listening.say_goodbye))
        self._runs_callbacks = not is_listener
        if is_listener:
            self._register(follows=True, alone_as="listener")
            return
        self.place = placement.decide(self.config)
        self._register(follows=placement.follows(self.place))
        self.environment = placement.start(
            self.config, self.place, self.listening.run, self.catch_up, self._election()
        )

    def _leave_parent(self) -> None:
        """Drop what must not cross a fork; nothing of it is closed, as it is the parent's.

        Not in the process that made it: the first request there, too, finds it not adopted, and
        may come from a callback while the queue is at work.
        """
        if self._pid == os.getpid():
            return
        self._pid = os.getpid()
        self.store.database.after_fork()
        self.redis.after_fork()
        self.holder.after_fork()
        self.queue.after_fork()
        self._asker.after_fork()
        self.environment = None

    def _register(self, *, follows: bool, alone_as: str = "process") -> None:
        """List this process among those of the host.

        :param alone_as: what it is called outside uWSGI
        """
        server = _uwsgi.server
        if server is None:
            self.host.register(alone_as, follows=follows)
        else:
            role = server.role()
            named = role in (Role.WORKER, Role.MULE, Role.SPOOLER)
            self.host.register(
                role.value if named else "process",
                server.worker_id() or server.mule_id(),
                server.master_pid(),
                follows=follows,
            )
        self._record_applied()

    def _record_applied(self) -> None:
        snapshot = self.holder.current
        self.host.slots.record(snapshot.lineage, snapshot.revision)

    def _election(self) -> Election | None:
        server = _uwsgi.server
        return None if server is None else Election(self.host.path, server.master_pid())

    # -- staying right ------------------------------------------------------------------------

    def fresh(self) -> Snapshot:
        """Return what this process serves, after looking whether the host has moved on.

        A few loads and two compares while nothing has happened. Each request begins with the same,
        spelt out in :class:`Pins`.
        """
        # The words come second, as the memory that a parent mapped may be that of a file since cut
        # short, and a child just forked, where 0 is past, maps it anew.
        if (
            time.monotonic() > self.check_at[0]
            or self.host.words[SEQUENCE_WORD] != self.seen_sequence
        ):
            self.freshen()
        return self.holder.current

    def freshen(self) -> None:
        """Do what one of the compares in :meth:`fresh` has found due."""
        if not self.check_at[0]:
            self.adopt_process()
            if not self.check_at[0]:
                return  # another thread is at it; until then nothing is safe but what is served
        if time.monotonic() > self.check_at[0]:
            self._check_listener()
        if self.host.sequence != self.seen_sequence:
            self.catch_up()

    def _check_listener(self) -> None:
        """Ask SQL where no listener of this host has turned for three polls."""
        self.host.verify()
        if self._owes_rows:
            self.seen_sequence = -1
        age = self.host.heartbeat_age_seconds()
        if age is not None and age < self.config.stale_seconds:
            self._check_in(self.config.stale_seconds - age)
            return
        self._check_in(self.config.poll_seconds)
        self._asker.poll_if_due()

    def _check_in(self, seconds: float) -> None:
        self.check_at[0] = max(LONG_AGO, time.monotonic() + seconds)

    def wake(self) -> None:
        """Take the present revision because of a signal; also in a process nobody set up yet."""
        if not self.check_at[0]:
            self.adopt_process()
        self.catch_up()

    def catch_up(self) -> None:
        """Serve what the host snapshot holds, and run the callbacks of what changed by it."""
        while True:
            found = self.host.read() or self._from_sql()
            if found is None:
                return
            sequence, record = found
            self.take(record, from_host=True)
            self.seen_sequence = sequence
            # Another thread may have served a newer record while this one decoded its own.
            if self.host.sequence == sequence:
                return

    def _from_sql(self) -> tuple[int, Record] | None:
        """Return what SQL holds, where the host snapshot is empty or damaged."""
        sequence = self.host.sequence
        record = self._asker.take()
        if record is None:
            self.seen_sequence = sequence  # the next poll asks again
            return None
        return self.host.read() or (sequence, record)

    def take(self, record: Record, *, from_host: bool = False) -> None:
        """Decode and serve a record, if it is newer than what is served, and run the callbacks.

        :param from_host: whether all of this host serve it, so that an empty one counts as well
        """
        current = self.holder.current
        is_emptied = from_host and record.lineage == NO_LINEAGE != current.lineage
        if is_emptied or record.supersedes(current.lineage, current.revision):
            if record.rows is None:
                self._serve_from_sql(record)
            else:
                self._serve(record)
        self.queue.drain()

    def _serve(self, record: Record) -> None:
        current = self.holder.current
        if self.holder.swap(build(self.declaration, self.cipher, record, current)):
            self._record_applied()

    def _serve_from_sql(self, wanted: Record) -> None:
        """Serve a record for whose rows the host snapshot had no room."""
        self._owes_rows = True

        def serve() -> None:
            record = self.reconciler.read()
            if record.lineage != NO_LINEAGE:
                self._serve(record)
            self._owes_rows = not record.reaches(wanted.lineage, wanted.revision)

        self._asker.run(serve, late=self.queue.drain)
        if self._owes_rows and self.check_at[0]:
            self._check_in(min(self.config.poll_seconds, self.check_at[0] - time.monotonic()))

    def _swapped(self, old: Snapshot, new: Snapshot) -> None:
        """Follow a swap, in order of revisions: runs under the holder's lock."""
        self.app.config.update(new.values)
        changes = {
            name: (old.values[name], value)
            for name, value in new.values.items()
            if old.values[name] != value
        }
        # Nothing of the application's may hold up a process that exists to listen.
        if changes and self._runs_callbacks:
            self.queue.put(changes, new.revision)
        for problem in new.problems:
            if problem not in old.problems:
                logger.warning("waffle: %s", problem)

    def refresh(self) -> bool:
        """Read SQL now, and return whether that brought newer settings.

        :raises StoreUnavailable: the database did not answer
        """
        before = self.holder.current
        record = self.reconciler.take()
        if record is not None:
            self.take(record)
        self.catch_up()
        return self.holder.current is not before


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
