"""What an application does when settings change: ``on_change`` and ``settings_changed``."""

from __future__ import annotations

import inspect
import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping
from contextvars import Context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blinker import NamedSignal, Namespace

if TYPE_CHECKING:
    from flask import Flask

__all__ = ["Callbacks", "ChangeHandler", "ChangeQueue", "Changes", "settings_changed"]

logger = logging.getLogger(__name__)

#: Sent in every process after the swap. Sender: the app; ``changes``: name -> (old, new);
#: ``revision``.
settings_changed: NamedSignal = Namespace().signal("settings-changed")

#: Name -> old and new value.
Changes = Mapping[str, tuple[Any, Any]]
#: Called with the old and the new value, with the new one, or with nothing, as it takes.
ChangeHandler = Callable[..., object]

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

    @property
    def names(self) -> frozenset[str]:
        """The settings that functions are registered for."""
        return frozenset(name for name, _, _ in self.handlers)

    def run(self, app: Flask, changes: Changes, revision: int) -> None:
        """Call the functions concerned, in an application context; an error stops none of them."""
        with app.app_context():
            for name, handler, arity in self.handlers:
                if name in changes:
                    old_and_new = changes[name]
                    _call(handler, old_and_new[_MOST_ARGUMENTS - arity :], name, revision)
            for receiver in settings_changed.receivers_for(app):
                _call(
                    lambda r=receiver: r(app, changes=changes, revision=revision), (), "", revision
                )


@dataclass(frozen=True)
class _Event:
    changes: Changes
    revision: int


class ChangeQueue:
    """Runs callbacks in the order of revisions, whichever threads the changes arrive in.

    No lock that others wait for is held while a callback runs: it may take long, change a setting
    itself, or, under gevent, let other greenlets run. One thread at a time runs callbacks, those
    too that other threads add meanwhile, until none is left.
    """

    def __init__(self, app: Flask, callbacks: Callbacks) -> None:
        self._app = app
        self._callbacks = callbacks
        #: Those registered with ``on_change``: without one, and without a receiver of the signal,
        #: there is no need to put a change.
        self.handlers = callbacks.handlers
        #: Changes whose functions have yet to be called, oldest first.
        self.events: deque[_Event] = deque()
        self._busy = threading.Lock()

    def after_fork(self) -> None:
        """Forget what a thread of the parent was about to run; the child starts anew."""
        self.events.clear()
        self._busy = threading.Lock()

    def put(self, changes: Changes, revision: int) -> None:
        """Add a change; changes are put in the order of their revisions."""
        self.events.append(_Event(changes, revision))

    def _run(self, event: _Event) -> None:
        try:
            self._callbacks.run(self._app, event.changes, event.revision)
        except KeyboardInterrupt:
            raise
        except BaseException:
            # Not a callback, whose errors `_call` logs, but a teardown function of the context.
            logger.exception("waffle: the callbacks of revision %d were cut short.", event.revision)

    def drain(self) -> None:
        """Run what is due, unless another thread is running it."""
        while self.events and self._busy.acquire(blocking=False):
            try:
                while self.events:
                    event = self.events.popleft()
                    # A context of its own: a callback sees the new settings, not the snapshot of
                    # a request that happens to be the one that changes them, or what a test
                    # overrides.
                    Context().run(self._run, event)
            finally:
                self._busy.release()


def _call(handler: ChangeHandler, arguments: tuple[Any, ...], name: str, revision: int) -> None:
    try:
        handler(*arguments)
    except KeyboardInterrupt:
        raise
    except BaseException:
        # Such as SystemExit, which would end a uWSGI worker, or gevent.Timeout, which would end
        # the listener.
        what = f"on_change({name!r})" if name else "a receiver of settings_changed"
        logger.exception(
            "waffle: %s failed at revision %d. The new values are served nevertheless.",
            what,
            revision,
        )


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
