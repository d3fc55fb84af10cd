"""Which snapshot a piece of code sees: its request's, its test's, or the process's present one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from flask import has_request_context, request

from .snapshot import Snapshot

if TYPE_CHECKING:
    from .state import State

__all__ = ["Pins"]


class Pins:
    """The pins of one application.

    :ivar pinned: the snapshot of the request at hand, ``None`` outside one
    """

    def __init__(self, state: State) -> None:
        """Make each request of the application see one snapshot, the newest when it starts.

        A wrapper of ``wsgi_app``, as functions that Flask calls before and after each request cost
        ten times as much, and the first of them comes too late for others like it.
        """
        self._state = state
        #: Where a request keeps its snapshot for code that runs in it but not in its context, such
        #: as a streamed response, or a thread that was given the request. A request may pass
        #: through several applications.
        self._environ_key = f"uwsgi_waffle.snapshot.{id(self):x}"
        self.pinned: ContextVar[Snapshot | None] = ContextVar("waffle_pinned", default=None)
        self._overrides: ContextVar[Mapping[str, object] | None] = ContextVar(
            "waffle_overrides", default=None
        )
        self._wrap()

    def _wrap(self) -> None:
        inner = self._state.app.wsgi_app
        fresh = self._state.fresh
        overrides, environ_key = self._overrides.get, self._environ_key
        pinned, pin = self.pinned.get, self.pinned.set

        def wsgi_app(environ: Any, start_response: Any) -> Iterable[bytes]:
            snapshot = fresh()
            if overrides() is not None:
                snapshot = self.overlay(snapshot)
            environ[environ_key] = snapshot
            outer = pinned()
            pin(snapshot)
            try:
                return inner(environ, start_response)
            finally:
                # Not reset(): to take a variable out of its context costs more than all the rest.
                pin(outer)

        self._state.app.wsgi_app = wsgi_app  # type: ignore[method-assign]  # as Flask's docs have it

    def unpinned(self) -> Snapshot:
        """Return what code outside the context of a request sees."""
        if has_request_context():
            kept: Snapshot | None = request.environ.get(self._environ_key)
            if kept is not None:
                return kept
        return self.overlay(self._state.fresh())

    def overlay(self, snapshot: Snapshot) -> Snapshot:
        """Return a snapshot with what this context overrides.

        :raises InvalidSetting: the application's validators refuse the mix
        """
        overrides = self._overrides.get()
        if overrides is None:
            return snapshot
        settings = self._state.declaration.validate(snapshot.settings, overrides)
        return replace(snapshot, settings=settings, values=MappingProxyType(dict(settings)))

    @contextmanager
    def override(self, values: Mapping[str, object]) -> Iterator[None]:
        """See other values in this context only.

        :raises UnknownSetting: a name is not declared
        :raises InvalidSetting: a value, or the whole, is refused
        """
        token = self._overrides.set({**(self._overrides.get() or {}), **values})
        try:
            pinned = self.pinned.get()
            seen = self.overlay(pinned if pinned is not None else self._state.fresh())
            pin_token = self.pinned.set(seen) if pinned is not None else None
            try:
                yield
            finally:
                if pin_token is not None:
                    self.pinned.reset(pin_token)
        finally:
            self._overrides.reset(token)
