"""What tests override: values that one context sees, a thread or a task, and no store."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import aclosing
from contextvars import ContextVar
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

if TYPE_CHECKING:
    from flask import Flask

__all__ = ["Override", "Overrides"]

F = TypeVar("F", bound=Callable[..., Any])
_Active: TypeAlias = "tuple[tuple[Override, Flask | None], ...]"


class Overrides:
    """The overrides of the applications of one extension.

    :ivar active: returns those of the context at hand, in the order in which they began; each with
        the application that it is for, ``None`` for all of them
    :ivar were_used: whether there has been one in this process; to ask the context in each read
        takes longer, and where no test runs there is none
    """

    def __init__(self) -> None:
        self._active: ContextVar[_Active] = ContextVar("waffle_overrides", default=())
        self.active: Callable[[], _Active] = self._active.get
        self.were_used: bool = False

    def values(self, app: Flask) -> Mapping[str, object]:
        """Return what the context at hand overrides for an application."""
        overrides = (one for one, only in self.active() if only is None or only is app)
        return {name: value for one in overrides for name, value in one.values.items()}

    def begin(self, override: Override, app: Flask | None) -> None:
        """Have the context at hand see an override."""
        self.were_used = True
        self._active.set((*self.active(), (override, app)))

    def end(self, override: Override) -> None:
        """End the latest use of an override in the context at hand, if there is one.

        Not by a token of its beginning: a generator may be closed in another context than it was
        started in, and two of them may end in the order in which they began.
        """
        active = self.active()
        for n in reversed(range(len(active))):
            if active[n][0] is override:
                self._active.set(active[:n] + active[n + 1 :])
                return


class Override:
    """Values that are seen within a block, or by a function: plain, async, or a generator.

    It can be used again, within itself, and in several threads at once: each has a context of its
    own.

    ::

        with waffle.override(SITENAME="x"):
            ...

        @waffle.override(SITENAME="x")
        async def test_name(): ...
    """

    def __init__(
        self,
        overrides: Overrides,
        values: Mapping[str, object],
        *,
        find_app: Callable[[], Flask | None],
        check: Callable[[], None],
    ) -> None:
        """Override nothing yet.

        :param find_app: returns the application to override for, ``None`` for all
        :param check: called once the values are seen; raises if they are refused
        """
        self.values = values
        self._overrides = overrides
        self._find_app = find_app
        self._check = check

    def __enter__(self) -> None:
        """See the values from now on.

        :raises UnknownSetting: a name is not declared
        :raises InvalidSetting: a value, or the whole, is refused
        """
        self._overrides.begin(self, self._find_app())
        try:
            self._check()
        except BaseException:
            self._overrides.end(self)
            raise

    def __exit__(self, *_: object) -> None:
        self._overrides.end(self)

    def __call__(self, function: F) -> F:
        """Return the function, which sees the values until it has returned, or yields no more.

        :raises TypeError: it is a class
        """
        if isinstance(function, type):
            message = (
                f"override() decorates functions, and {function.__name__} is a class. Decorate its "
                "methods, or use self.enterContext(waffle.override(...)) in its setUp."
            )
            raise TypeError(message)
        return cast("F", wraps(function)(self._around(function)))

    def _around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function of the same kind: a call of the others does not yet run their body."""
        if inspect.iscoroutinefunction(function):

            async def coroutine(*args: Any, **kwargs: Any) -> Any:
                with self:
                    return await function(*args, **kwargs)

            return coroutine
        if inspect.isasyncgenfunction(function):

            async def async_generator(*args: Any, **kwargs: Any) -> Any:
                with self:
                    async with aclosing(function(*args, **kwargs)) as items:
                        async for item in items:
                            yield item

            return async_generator
        if inspect.isgeneratorfunction(function):

            def generator(*args: Any, **kwargs: Any) -> Any:
                with self:
                    return (yield from function(*args, **kwargs))

            return generator

        def plain(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)

        return plain
