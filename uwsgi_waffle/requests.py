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

#: Where a request keeps its snapshot for code that runs in it but not in its context, such as a
#: streamed response, or a thread that was given the request.
ENVIRON_KEY = "uwsgi_waffle.snapshot"


class Pins:
    """The pins of one :class:`WaffleConf`, whichever of its applications handles a request.

    :ivar pinned: the snapshot of the request at hand, ``None`` outside one
    """

    def __init__(self) -> None:
        self.pinned: ContextVar[Snapshot | None] = ContextVar("waffle_pinned", default=None)
        self._overrides: ContextVar[Mapping[str, object] | None] = ContextVar(
            "waffle_overrides", default=None
        )

    def wrap(self, state: State) -> None:
        """Make each request of an application see one snapshot, the newest when it starts.

        A wrapper of ``wsgi_app``, as functions that Flask calls before and after each request cost
        ten times as much, and the first of them comes too late for others like it.
        """
        inner = state.app.wsgi_app
        fresh = state.fresh
        overrides, pinned = self._overrides.get, self.pinned

        def wsgi_app(environ: Any, start_response: Any) -> Iterable[bytes]:
            snapshot = fresh()
            if overrides() is not None:
                snapshot = self.overlay(state, snapshot)
            environ[ENVIRON_KEY] = snapshot
            token = pinned.set(snapshot)
            try:
                return inner(environ, start_response)
            finally:
                pinned.reset(token)

        state.app.wsgi_app = wsgi_app  # type: ignore[method-assign]  # as Flask's docs have it

    def unpinned(self, state: State) -> Snapshot:
        """Return what code outside the context of a request sees."""
        if has_request_context():
            kept: Snapshot | None = request.environ.get(ENVIRON_KEY)
            if kept is not None:
                return kept
        return self.overlay(state, state.fresh())

    def overlay(self, state: State, snapshot: Snapshot) -> Snapshot:
        """Return a snapshot with what this context overrides.

        :raises InvalidSetting: the application's validators refuse the mix
        """
        overrides = self._overrides.get()
        if overrides is None:
            return snapshot
        settings = state.declaration.validate(snapshot.settings, overrides)
        return replace(snapshot, settings=settings, values=MappingProxyType(dict(settings)))

    @contextmanager
    def override(self, state: State, values: Mapping[str, object]) -> Iterator[None]:
        """See other values in this context only.

        :raises UnknownSetting: a name is not declared
        :raises InvalidSetting: a value, or the whole, is refused
        """
        token = self._overrides.set({**(self._overrides.get() or {}), **values})
        try:
            pinned = self.pinned.get()
            seen = self.overlay(state, pinned if pinned is not None else state.fresh())
            pin_token = self.pinned.set(seen) if pinned is not None else None
            try:
                yield
            finally:
                if pin_token is not None:
                    self.pinned.reset(pin_token)
        finally:
            self._overrides.reset(token)
