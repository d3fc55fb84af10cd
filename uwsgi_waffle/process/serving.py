"""What this process serves, and how it follows the host snapshot.

The path of a change ends here: request start, signal or listener → :meth:`Serving.catch_up` →
decode, validate, swap one reference, start the callbacks.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from uwsgi_waffle.host.layout import SEQUENCE_WORD
from uwsgi_waffle.server import forks
from uwsgi_waffle.values.snapshot import Record, Snapshot, build

from .asking import Asker
from .callbacks import ChangeQueue
from .parts import Parts

__all__ = ["Serving"]

logger = logging.getLogger(__name__)

#: In seconds of the monotonic clock; not 0, which says that a process is not adopted yet.
LONG_AGO = 1e-9
#: Seconds that a request waits for another thread that adopts this process, which takes less than a
#: millisecond.
ADOPTION_SECONDS = 1.0
#: Seconds between two looks whether it has.
ADOPTION_RETRY_SECONDS = 0.0005


class Serving:
    """The snapshot that one process serves of one application.

    :ivar current: the snapshot; swapped as one reference, and within a lineage never backwards
    :ivar check_at: when :meth:`freshen` is due whatever the host does, in seconds of the monotonic
        clock; 0 in a process that is not adopted yet, such as one just forked
    :ivar seen_sequence: that of the host snapshot, as far as it is served
    :ivar has_loaded: whether it is what SQL or the host snapshot held, and not just the defaults
    :ivar runs_callbacks: whether ``on_change`` runs in this process
    """

    def __init__(
        self, parts: Parts, asker: Asker, queue: ChangeQueue, adopt: Callable[[], None]
    ) -> None:
        """Serve what the host snapshot holds, else the defaults.

        :param adopt: sets up this process where that has not been done yet
        """
        self._app = parts.app
        self._config = parts.config
        self._declaration = parts.declaration
        self._cipher = parts.cipher
        self._host = parts.host
        self._asker = asker
        self._queue = queue
        self._adopt = adopt
        self._lock = threading.RLock()  # a handler of the log may read settings during a swap
        self.check_at = forks.make_own_number()
        self.runs_callbacks = True
        found = parts.host.read()
        self.has_loaded = found is not None
        self.seen_sequence, record = (-1, Record()) if found is None else found
        self.current = build(parts.declaration, parts.cipher, record)
        parts.app.config.update(self.current.values)
        for refused in self.current.refused:
            logger.warning("waffle: %s", refused)

    def after_fork(self) -> None:
        """Replace a lock that another thread may have held at the fork."""
        self._lock = threading.RLock()

    def fresh(self) -> Snapshot:
        """Return what this process serves, after checking whether the host snapshot has moved.

        It costs a few loads and two compares where nothing has changed. Each request begins with
        the same, inlined in :class:`Pins`.
        """
        # The words come second: the memory that a parent mapped may be that of a file since cut
        # short, and a child just forked, whose `check_at` is 0, maps it anew first.
        if (
            time.monotonic() > self.check_at[0]
            or self._host.words[SEQUENCE_WORD] != self.seen_sequence
        ):
            self.freshen()
        return self.current

    def freshen(self) -> None:
        """Do what one of the compares in :meth:`fresh` has found due."""
        if not self.check_at[0]:
            self._adopt()
            if not self._is_adopted_soon():
                return  # only `current` is safe until then
        if time.monotonic() > self.check_at[0]:
            self._check_listener()
        self.follow()

    def _is_adopted_soon(self) -> bool:
        """Wait while another thread adopts this process, and return whether that is done."""
        deadline = time.monotonic() + ADOPTION_SECONDS
        while not self.check_at[0]:
            if time.monotonic() > deadline:
                return False
            time.sleep(ADOPTION_RETRY_SECONDS)  # not a lock: a fork could copy it while it is held
        return True

    def expect_check(self) -> None:
        """Have the next request check the listener of this host."""
        self.check_at[0] = LONG_AGO

    def _check_listener(self) -> None:
        """Ask SQL where no listener of this host has turned for three polls."""
        self._host.verify()
        age = self._host.heartbeat_age_seconds()
        if age is not None and age < self._config.stale_seconds:
            self._check_in(self._config.stale_seconds - age)
            return
        self._check_in(self._config.poll_seconds)
        self._adopt()  # again: it starts a listener of this process that has ended
        self._asker.poll_if_due()

    def _check_in(self, seconds: float) -> None:
        self.check_at[0] = max(LONG_AGO, time.monotonic() + seconds)
        if self._queue.is_awaited:  # second: they may have begun meanwhile
            self.expect_check()

    def wake(self) -> None:
        """Catch up because of a signal; also in a process not adopted yet."""
        if not self.check_at[0]:
            self._adopt()
        self.catch_up()

    def follow(self) -> None:
        """Catch up, and wait for the callbacks of what is served, half a second at most."""
        self.catch_up()
        self._wait_for_callbacks()

    def catch_up(self) -> None:
        """Serve what the host snapshot holds, if it has moved, and start the callbacks.

        It waits for no callback, so that the next change does not either.
        """
        # Again where another process has moved the host snapshot while this one decoded.
        while (looked_at := self._host.words[SEQUENCE_WORD]) != self.seen_sequence:
            found = self._host.read() or self._read_sql(looked_at)
            if found is None:
                return
            sequence, record = found
            self._take(record)
            self.seen_sequence = sequence

    def _read_sql(self, looked_at: int) -> tuple[int, Record] | None:
        """Return what SQL holds, where the host snapshot is empty or damaged.

        :param looked_at: its sequence number before it was found to be so; it may be right by now
        """
        record = self._asker.reconcile()
        if record is None:
            self.seen_sequence = looked_at  # the next poll asks again
            return None
        return self._host.read() or (looked_at, record)

    def _take(self, record: Record) -> None:
        """Serve a record that this host has moved to, and start the callbacks.

        That is also the empty one of a database which was emptied, where the host accepted it.
        """
        served = self.current.position
        if record.position.supersedes(served) or (not record.position.exists and served.exists):
            self.swap(build(self._declaration, self._cipher, record, self.current))
        self.has_loaded = True
        self.start_callbacks()

    def start_callbacks(self) -> None:
        """Have callbacks run that are due, and each request wait for them while it is to."""
        if self._queue.is_needed:
            self._queue.start()
            if self._queue.is_awaited and self.check_at[0]:
                self.expect_check()

    def _wait_for_callbacks(self) -> None:
        if self._queue.is_needed:
            with self._lock:
                pass  # a swap under way in another thread has put its change by now
            self.start_callbacks()
            self._queue.wait()

    def serve(self, snapshot: Snapshot, sequence: int | None) -> None:
        """Serve a snapshot that this process has just committed, and run the callbacks.

        :param sequence: its number in the host snapshot, ``None`` where that did not accept it
        """
        if sequence is not None and self.swap(snapshot):
            self.seen_sequence = sequence
            self._wait_for_callbacks()
        else:
            self.follow()

    def apply(self, record: Record) -> None:
        """Serve a record that was read from SQL, if this host accepts it."""
        self._host.publish(record)
        self.follow()

    def swap(self, snapshot: Snapshot) -> bool:
        """Serve *snapshot* unless a later one is served, and return whether it is served now."""
        with self._lock:
            old = self.current
            if snapshot.position == old.position or snapshot.position.is_behind(old.position):
                return False
            self.current = snapshot
            self.has_loaded = True
            self._swapped(old, snapshot)
        self.record()
        return True

    def record(self) -> None:
        """Record in the host's list what this process serves, and what of it it refuses."""
        with self._lock:  # another thread may swap, and record that, meanwhile
            self._host.slots.record(self.current.position, self.current.refused)

    def _swapped(self, old: Snapshot, new: Snapshot) -> None:
        """Follow a swap, in order of revisions: runs under the lock."""
        self._app.config.update(new.values)
        # The application's callbacks must not delay a process that only listens.
        if self.runs_callbacks and self._queue.is_needed:
            changes = {
                name: (before, value)
                for name, value in new.values.items()
                if (before := old.values[name]) is not value
                and self._declaration.differ(name, before, value)
            }
            if changes:
                self._queue.put(changes, new.position.revision)
        for refused in new.refused:
            if refused not in old.refused:
                logger.warning("waffle: %s", refused)
