"""What an application does when settings change: ``on_change`` and ``settings_changed``.

A callback is the application's, and may do anything: take long, raise what it likes, change a
setting, never return. So callbacks run beside everything else.
"""

from __future__ import annotations

import inspect
import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextvars import Context, ContextVar
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from blinker import NamedSignal, Namespace

from uwsgi_waffle.server import concurrency

if TYPE_CHECKING:
    from flask import Flask

__all__ = [
    "Callbacks",
    "ChangeHandler",
    "ChangeQueue",
    "Changes",
    "Handler",
    "settings_changed",
]

logger = logging.getLogger(__name__)

#: Sent in every process after the swap. Sender: the app; ``changes``: name -> (old, new);
#: ``revision``.
settings_changed: NamedSignal = Namespace().signal("settings-changed")

#: Name -> old and new value.
Changes = Mapping[str, tuple[Any, Any]]
#: Called with the old and the new value, with the new one, or with nothing, as it takes.
ChangeHandler = Callable[..., object]
Handler = TypeVar("Handler", bound=ChangeHandler)
#: Given the callback that begins, ``""`` when they have ended.
RecordCallback = Callable[[str], None]

#: Seconds that a request waits for callbacks, which usually take no time; counted from where they
#: began, so that a slow one is waited for once.
PATIENCE_SECONDS = 0.5

_MOST_ARGUMENTS = 2


class Callbacks:
    """The functions registered with ``on_change``, in order of registration."""

    def __init__(self) -> None:
        #: Setting, function, and how many of (old, new) it takes.
        self.handlers: list[tuple[str, ChangeHandler, int]] = []

    def add(self, name: str, handler: ChangeHandler) -> None:
        """Call *handler* when the setting changes.

        :raises TypeError: it needs more than the old and the new value
        """
        self.handlers.append((name, handler, _arity(handler)))

    def registering(self, names: Sequence[str]) -> Callable[[Handler], Handler]:
        """Return a decorator of functions to call when one of the settings changes.

        :raises TypeError: there is no name, but perhaps the function itself
        """
        if not names or not all(isinstance(name, str) for name in names):
            message = "on_change() takes names of settings, as in @waffle.on_change('POOL_SIZE')."
            raise TypeError(message)

        def register(handler: Handler) -> Handler:
            for name in names:
                self.add(name, handler)
            return handler

        return register

    @property
    def names(self) -> frozenset[str]:
        """The settings that functions are registered for."""
        return frozenset(name for name, _, _ in self.handlers)

    def run(self, app: Flask, changes: Changes, revision: int, record: RecordCallback) -> None:
        """Call the functions concerned, in an application context; an error stops none of them."""
        with app.app_context():
            for name, handler, arity in self.handlers:
                if name in changes:
                    what = f"on_change({name!r})"
                    record(what)
                    arguments = changes[name][_MOST_ARGUMENTS - arity :]
                    _call(partial(_run, app, handler, *arguments), what, revision)
            for receiver in settings_changed.receivers_for(app):
                what = "a receiver of settings_changed"
                record(what)
                sent = {"changes": changes, "revision": revision}
                _call(partial(_run, app, receiver, app, **sent), what, revision)


@dataclass(frozen=True)
class _Event:
    changes: Changes
    revision: int


#: The queue whose callback the code at hand is.
_calling: ContextVar[ChangeQueue | None] = ContextVar("waffle_calling", default=None)


class ChangeQueue:
    """Runs callbacks in the order of revisions, whichever threads the changes arrive in.

    They run one after another in a thread, or greenlet, that runs only while there are changes to
    call back for: so neither the request nor the listener that brings a change depends on them.
    """

    def __init__(self, app: Flask, callbacks: Callbacks, record: RecordCallback) -> None:
        """Run nothing yet.

        :param record: shows other processes which callback runs
        """
        self._app = app
        self._callbacks = callbacks
        self._record = record
        #: Changes whose functions have yet to be called, oldest first.
        self.events: deque[_Event] = deque()
        #: The change whose functions are being called.
        self._current: _Event | None = None
        #: What calls them; ``None`` where there is nothing to call back for.
        self._task: concurrency.Task | None = None
        self._lock = threading.Lock()

    def after_fork(self) -> None:
        """Call back anew for what the parent has begun: its thread is not in this process.

        Not where a callback has forked, which goes on here.
        """
        self._lock = threading.Lock()
        self._task = None
        if _calling.get() is self:
            _calling.set(None)
        elif self._current is not None:
            self.events.appendleft(self._current)
        self._current = None

    @property
    def is_needed(self) -> bool:
        """Whether there may be a function to call."""
        return bool(self._callbacks.handlers or settings_changed.receivers)

    def put(self, changes: Changes, revision: int) -> None:
        """Add a change that concerns a callback; changes are put in the order of revisions."""
        if settings_changed.receivers or not self._callbacks.names.isdisjoint(changes):
            self.events.append(_Event(changes, revision))

    def start(self) -> None:
        """Have callbacks run for what was put, unless they run already.

        They have run when this returns where a thread would not run on, or must not be started.
        """
        with self._lock:
            if self._task is not None or not self.events:
                return
            self._task = task = concurrency.Task(lambda: self._drain(task))
        if concurrency.threads_run_while_idle():
            task.start()
        else:
            task.run()

    @property
    def is_awaited(self) -> bool:
        """Whether callbacks run that requests still wait for."""
        task = self._task
        return task is not None and task.age_seconds() < PATIENCE_SECONDS

    def wait(self) -> None:
        """Wait for the callbacks that run, for what is left of their time; not within one."""
        task = self._task
        if task is not None and _calling.get() is None:
            task.wait(max(0.0, PATIENCE_SECONDS - task.age_seconds()))

    def _drain(self, task: concurrency.Task) -> None:
        """Call back for each change until none is left."""
        try:
            while (event := self._next(task)) is not None:
                # A context of its own: a callback sees the new settings, not the snapshot of a
                # request that happens to be the one that changes them, or what a test overrides.
                Context().run(self._run, event)
        except BaseException:  # Ctrl-C; what is left is called by the next start
            self._current = self._task = None
            raise

    def _next(self, task: concurrency.Task) -> _Event | None:
        """Return the next change; where there is none, *task* has ended."""
        with self._lock:
            if self._task is not task:  # a callback has forked, and this is the child
                return None
            if not self.events:
                self._current = self._task = None
                return None
            # In this order: a fork in between has the child called twice rather than not at all.
            self._current = self.events[0]
            return self.events.popleft()

    def _run(self, event: _Event) -> None:
        _calling.set(self)
        try:
            self._callbacks.run(self._app, event.changes, event.revision, self._record)
        except BaseException as error:
            if _is_ctrl_c(error):
                raise
            # Not a callback, whose errors `_call` logs, but a teardown function of the context.
            logger.exception("waffle: the callbacks of revision %d were cut short.", event.revision)
        finally:
            self._record("")


def _run(app: Flask, function: Callable[..., object], *args: object, **kwargs: object) -> None:
    """Run a function to its end, also an async one, as Flask does with its views."""
    app.ensure_sync(function)(*args, **kwargs)


def _call(function: Callable[[], object], what: str, revision: int) -> None:
    try:
        function()
    except BaseException as error:
        # Such as SystemExit, which would end a uWSGI worker, or gevent.Timeout.
        if _is_ctrl_c(error):
            raise
        logger.exception(
            "waffle: %s failed at revision %d. The new values are served nevertheless.",
            what,
            revision,
        )


def _is_ctrl_c(error: BaseException) -> bool:
    """Return whether an error may be Ctrl-C, which is meant for the program and not a callback."""
    return isinstance(error, KeyboardInterrupt) and concurrency.ctrl_c_is_raised_here()


def _arity(handler: ChangeHandler) -> int:
    """Return how many of (old, new) a handler takes: 2, 1 (the new value) or 0.

    :raises TypeError: it needs more
    """
    try:
        signature = inspect.signature(handler)
    except ValueError:
        return 1  # a builtin without a signature, such as print
    for arity in range(_MOST_ARGUMENTS, -1, -1):
        try:
            signature.bind(*range(arity))
        except TypeError:
            continue
        return arity
    message = (
        f"{handler!r} cannot be called with (old, new), (new) or (). An on_change function takes "
        "the old and the new value, the new value, or nothing."
    )
    raise TypeError(message)
