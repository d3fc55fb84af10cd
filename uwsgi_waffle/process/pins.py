"""Which snapshot a piece of code sees: its request's, its test's, or the process's present one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from dataclasses import replace
from threading import get_ident
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import flask.globals
from flask import has_request_context, request

from uwsgi_waffle.host.layout import SEQUENCE_WORD
from uwsgi_waffle.host.records import HostSnapshot
from uwsgi_waffle.values.declaration import Declaration
from uwsgi_waffle.values.snapshot import Snapshot

from .overrides import Overrides
from .serving import Serving

if TYPE_CHECKING:
    from flask import Flask

__all__ = ["NO_PIN", "Pin", "Pins"]


class Pin:
    """What a context (a thread, a greenlet) sees, kept and used again by its next request.

    To set a context variable costs a request more than everything else that is done here. The
    price: a context that was copied, and runs in the same thread during a later request, sees what
    that request sees.

    :ivar snapshot: the snapshot of the request at hand, ``None`` between requests
    :ivar thread: the thread that it is good for, as a copy of the context may run in another
    :ivar outer: the pin of the request around this one's, if there is one
    """

    __slots__ = ("outer", "snapshot", "thread")

    def __init__(self, snapshot: Snapshot | None, thread: int, outer: Pin | None = None) -> None:
        self.snapshot = snapshot
        self.thread = thread
        self.outer = outer


#: For contexts that no request has run in: it is good for no thread.
NO_PIN = Pin(None, 0)


def _context_finder() -> Callable[[None], Any]:
    """Return what returns an object with the ``request`` at hand, ``None`` where there is none.

    Flask's own functions around its variable take five times as long as the variable, but another
    release may have another one.
    """
    variable: ContextVar[Any] | None = getattr(flask.globals, "_cv_request", None)
    if variable is not None:
        return variable.get
    return lambda _: flask if has_request_context() else None


class Pins:
    """The pins of one application.

    :ivar here: returns the pin of the context at hand
    :ivar unpinned: returns what code without a pin sees, such as a command or a thread
    """

    def __init__(
        self,
        app: Flask,
        declaration: Declaration,
        host: HostSnapshot,
        serving: Serving,
        overrides: Overrides,
    ) -> None:
        """Make each request of the application see one snapshot, the newest when it starts.

        A wrapper of ``wsgi_app``, as functions that Flask calls before and after each request cost
        ten times as much, and the first of them comes too late for others like it.
        """
        self._app = app
        self._declaration = declaration
        self._serving = serving
        #: Where a request keeps its snapshot for code that runs in it but not in its context, such
        #: as a streamed response, or a thread that was given the request. A request may pass
        #: through several applications.
        self._environ_key = f"uwsgi_waffle.snapshot.{id(self):x}"
        self._pin: ContextVar[Pin] = ContextVar("waffle_pin", default=NO_PIN)
        self.here = self._pin.get
        self._overrides = overrides
        self._wrap(app, host)
        self.unpinned = self._make_unpinned(host)

    def _wrap(self, app: Flask, host: HostSnapshot) -> None:
        serving, inner = self._serving, app.wsgi_app
        check_at, now = serving.check_at, time.monotonic
        overrides, environ_key, here = self._overrides, self._environ_key, self.here

        def wsgi_app(environ: Any, start_response: Any) -> Iterable[bytes]:
            # Serving.fresh(), inlined: a call costs a sixth of all that is added to a request.
            if now() > check_at[0] or host.words[SEQUENCE_WORD] != serving.seen_sequence:
                serving.freshen()
            snapshot = serving.current
            if overrides.were_used:
                snapshot = self.overlay(snapshot)
            environ[environ_key] = snapshot
            pin = here()
            if pin.thread != get_ident() or pin.snapshot is not None:
                pin = self._new_pin(pin)  # a context's first request, or one inside another
            pin.snapshot = snapshot
            try:
                return inner(environ, start_response)
            finally:
                pin.snapshot = None
                if pin.outer is not None:
                    self._pin.set(pin.outer)

        app.wsgi_app = wsgi_app  # type: ignore[method-assign]  # as Flask's docs have it

    def _new_pin(self, present: Pin) -> Pin:
        """Give the context at hand a pin of its own."""
        here = get_ident()
        pin = Pin(None, here, present if present.thread == here else None)
        self._pin.set(pin)
        return pin

    def pinned(self) -> Snapshot | None:
        """Return the snapshot of the request at hand, ``None`` where there is none."""
        pin = self.here()
        return pin.snapshot if pin.thread == get_ident() else None

    def seen(self) -> Snapshot:
        """Return what code sees, wherever it runs."""
        return self.pinned() or self.unpinned()

    def _make_unpinned(self, host: HostSnapshot) -> Callable[[], Snapshot]:
        """Return :attr:`unpinned`: one function, as each call in it costs a read a tenth."""
        serving, environ_key, overlay = self._serving, self._environ_key, self.overlay
        check_at, now, overrides = serving.check_at, time.monotonic, self._overrides
        find_context = _context_finder()

        def unpinned() -> Snapshot:
            kept: Snapshot | None
            context = find_context(None)
            if context is None or (kept := context.request.environ.get(environ_key)) is None:
                # Serving.fresh(), inlined.
                if now() > check_at[0] or host.words[SEQUENCE_WORD] != serving.seen_sequence:
                    serving.freshen()
                kept = serving.current
            return overlay(kept) if overrides.were_used else kept

        return unpinned

    def follow(self) -> Snapshot:
        """Have the request at hand, if there is one, see the newest snapshot from now on."""
        newest = self._serving.fresh()
        seen = self.overlay(newest)
        pin = self.here()
        if pin.snapshot is not None and pin.thread == get_ident():
            pin.snapshot = seen
        if has_request_context() and self._environ_key in request.environ:
            request.environ[self._environ_key] = newest
        return seen

    def overlay(self, snapshot: Snapshot) -> Snapshot:
        """Return a snapshot with what this context overrides.

        :raises UnknownSetting: a name is not declared
        :raises InvalidSetting: the application's validators refuse the mix
        """
        overridden = self._overrides.values(self._app) if self._overrides.active() else None
        if not overridden:
            return snapshot
        settings = self._declaration.validate(snapshot.settings, overridden)
        values = MappingProxyType(self._declaration.values(settings))
        return replace(snapshot, settings=settings, values=values)

    def see_overrides(self) -> None:
        """Have the request at hand, if there is one, see what has been overridden since it began.

        Its context gets a pin without a snapshot, so from now on each read looks at what the
        request keeps, and at the overrides: after the last of them has ended, too.

        :raises UnknownSetting: a name is not declared
        :raises InvalidSetting: a value, or the whole, is refused
        """
        self.overlay(self.pinned() or self.unpinned())
        if self.pinned() is not None:
            self._pin.set(Pin(None, get_ident()))
