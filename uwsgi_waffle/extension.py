"""The extension: what an application declares, changes and asks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from threading import get_ident
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, overload

# pydantic_core is first to fail in a second interpreter of uWSGI, where boot must not run again.
import pydantic_core  # noqa: F401  # (as above)
from flask import current_app, has_app_context

from . import boot
from .bus.fleet import Fleet
from .config import Config
from .errors import ConfigError, WaffleError
from .ops.convergence import wait
from .ops.status import Status, collect
from .process.ancestor import AncestorState
from .process.callbacks import ChangeHandler
from .process.overrides import Override, Overriding
from .process.parts import Common
from .process.pins import NO_PIN, Pin
from .process.state import State
from .process.writes import Update
from .sql.history import Change
from .sql.store import Signature
from .values.settings import WaffleSettings, check_model
from .values.snapshot import Snapshot

if TYPE_CHECKING:
    from flask import Blueprint, Flask

    from .admin.permission import Authorize
    from .bus.client import RedisClient

__all__ = ["WaffleConf"]

S = TypeVar("S", bound=WaffleSettings)
Handler = TypeVar("Handler", bound=ChangeHandler)

EXTENSION_NAME = "waffleconf"


class WaffleConf(Generic[S]):
    """Settings of a Flask application that change while it runs, in every process at once.

    ::

        waffle = WaffleConf(app, Settings)
        waffle.settings.SITENAME
    """

    @overload
    def __init__(
        self, app: Flask | None, settings: type[S], *, redis: RedisClient | None = None
    ) -> None: ...

    @overload
    def __init__(
        self, app: Flask | None = None, *, settings: type[S], redis: RedisClient | None = None
    ) -> None: ...

    @overload
    def __init__(
        self: WaffleConf[Any], app: Flask | None = None, *, redis: RedisClient | None = None
    ) -> None: ...

    def __init__(
        self,
        app: Flask | None = None,
        settings: type[S] | None = None,
        *,
        redis: RedisClient | None = None,
    ) -> None:
        """Declare settings; with an application, set it up.

        :param app: the application; leave it out to call :meth:`init_app` later
        :param settings: a subclass of :class:`WaffleSettings`; leave it out to declare settings in
            ``WAFFLE_CONFS``
        :param redis: a ready Redis client (of a Sentinel, a Cluster) in place of an address
        :raises ConfigError: a key or a declaration cannot work
        """
        self._model = settings
        self._redis = redis
        self._common = Common()
        self._only: State | None = None
        self._count = 0
        #: Returns the pin of the request at hand; where there are several applications, no pin.
        self._pin: Callable[[], Pin] = _no_pin
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Set an application up: read its ``WAFFLE_*`` keys and load its settings.

        Changes to the keys after this call have no effect. ``app.extensions["waffleconf"]`` is the
        state of the application.

        :raises ConfigError: a key or a declaration cannot work
        """
        if EXTENSION_NAME in app.extensions:
            message = f"The app {app.name!r} has a WaffleConf already. Import and use that one."
            raise ConfigError(message)
        config = Config.from_app(app)
        if self._model is not None:
            check_model(self._model)
            if config.confs is not None:
                message = "Settings are declared twice: as a class and in WAFFLE_CONFS. Remove one."
                raise ConfigError(message, key="WAFFLE_CONFS")
        boot.install()
        state = State(app, config, self._model, self._common, self._redis)
        app.extensions[EXTENSION_NAME] = state
        self._count += 1
        is_only = self._count == 1
        self._only = state if is_only else None
        self._pin = state.pins.here if is_only else _no_pin

    # -- read ---------------------------------------------------------------------------------

    @property
    def settings(self) -> S:
        """The typed settings; within a request, those of the snapshot it started with."""
        pin = self._pin()
        snapshot = (pin.snapshot if pin.thread == get_ident() else None) or self._seen()
        return snapshot.settings  # type: ignore[return-value]  # the model that init_app was given

    @property
    def revision(self) -> int:
        """The revision of :attr:`settings`; 0 before the first change."""
        return self._seen().revision

    def _seen(self) -> Snapshot:
        """Return the snapshot to see where none is pinned for the only application."""
        return self._state().pins.seen()

    @property
    def state(self) -> AncestorState:
        """``app.extensions["waffleconf"]``, under the name that Flask-WaffleConf gives it.

        :raises WaffleError: there is no application, or none of several is current
        """
        return self._state()

    # -- write --------------------------------------------------------------------------------

    def update(
        self,
        values: Mapping[str, object],
        *,
        actor: str | None = None,
        comment: str | None = None,
        expected_revision: int | None = None,
    ) -> Update:
        """Set some settings, all or none, as one revision.

        It returns after the commit. From then on every request that starts on this host sees the
        change; other hosts follow the announcement, or poll. Values equal to the present ones make
        no revision. After the commit nothing is raised.

        :param values: name -> value
        :param actor: who changes them
        :param comment: why
        :param expected_revision: refuse unless this is the present revision
        :raises UnknownSetting: a name is not declared
        :raises InvalidSetting: a value, or the whole, is refused
        :raises RevisionConflict: the settings are not at the expected revision
        :raises StoreUnavailable: the database did not answer
        """
        if not isinstance(values, Mapping):
            message = f"The values must be a mapping of name to value, not {type(values).__name__}."
            raise TypeError(message)
        return self._state().writer.update(
            values, Signature(actor, comment), expected_revision=expected_revision
        )

    def reset(
        self,
        *names: str,
        actor: str | None = None,
        comment: str | None = None,
        expected_revision: int | None = None,
    ) -> Update:
        """Set some settings back to their defaults, as one revision; raises as :meth:`update`."""
        return self._state().writer.reset(
            names, Signature(actor, comment), expected_revision=expected_revision
        )

    def rollback(
        self,
        revision: int,
        *,
        actor: str | None = None,
        comment: str | None = None,
        expected_revision: int | None = None,
    ) -> Update:
        """Make a new revision equal to an earlier one; raises as :meth:`update`.

        :raises UnknownRevision: the history does not hold that revision
        """
        return self._state().writer.rollback(
            revision, Signature(actor, comment), expected_revision=expected_revision
        )

    def history(
        self, name: str | None = None, limit: int | None = 50, *, reveal: bool = False
    ) -> list[Change]:
        """Return changes, newest first; secrets are masked unless *reveal*.

        :param name: one setting only
        :param limit: how many at most, ``None`` for all
        :raises StoreUnavailable: the database did not answer
        """
        return self._state().history.changes(name, limit, reveal=reveal)

    # -- follow -------------------------------------------------------------------------------

    def on_change(self, *names: str) -> Callable[[Handler], Handler]:
        """Call the decorated function in every process after one of the settings has changed.

        It is called with the old and the new value, with the new one, or with nothing, by how many
        arguments it has; once for each of the *names* that changed; within an application context.
        What it raises is logged.

        :raises UnknownSetting: a name is not declared
        """
        if self._only is not None:
            self._only.declaration.check_known(names)

        def register(handler: Handler) -> Handler:
            for name in names:
                self._common.callbacks.add(name, handler)
            return handler

        return register

    def refresh(self) -> bool:
        """Read SQL now, and return whether that brought newer settings.

        Within a request, :attr:`settings` stay those that it started with.

        :raises StoreUnavailable: the database did not answer
        """
        return self._state().refresh()

    def follow(self) -> int:
        """Have the request at hand see the newest settings from now on; return their revision.

        A request keeps the settings that it started with. One that lasts, such as a websocket or a
        stream of events, calls this where it can take newer ones. It reads no database.
        """
        return self._state().pins.follow().revision

    def wait(self, revision: int, timeout: float = 5.0) -> Fleet:
        """Return when every living process of every host serves a revision, refusing none of it.

        SQL's present state counts, or a later one, and only processes that are woken for changes
        are waited for.

        :param timeout: how long to wait for them, in seconds
        :raises NotConverged: some do not in time, refuse a value, or may exist without being known
        """
        return wait(self._state(), revision, timeout)

    def status(self) -> Status:
        """Return which process serves which revision, and what is wrong.

        Asks SQL and Redis once each; where one does not answer, the status reports it.
        """
        return collect(self._state())

    def override(self, **values: object) -> Overriding:
        """See other values in this context only, for tests: nothing is stored or announced.

        As the object of ``with``, or as a decorator of a function of any kind. Within an
        application context that application sees them, elsewhere each one of this extension;
        ``app.config``, which belongs to the whole process, keeps the stored values. The block, or
        the function, raises:

        :raises UnknownSetting: a name is not declared
        :raises InvalidSetting: a value, or the whole, is refused
        """
        return Override(
            self._common.overrides, values, find_app=_current_app, check=self._see_overrides
        )

    def _see_overrides(self) -> None:
        """Check what is overridden; where no application is current, its requests do."""
        state = self._state_at_hand()
        if state is not None:
            state.pins.see_overrides()

    # -- operate ------------------------------------------------------------------------------

    def admin(
        self, *, authorize: Authorize, trusted_hosts: Iterable[str] | None = None
    ) -> Blueprint:
        """Return pages, and the same as JSON, to see and change settings.

        ::

            app.register_blueprint(waffle.admin(authorize=who), url_prefix="/waffle")

        :param authorize: given the request, returns the actor's name, a :class:`Permission`, or
            ``None`` for 403
        :param trusted_hosts: host names under which the pages are served, as those of Flask's
            ``TRUSTED_HOSTS``; a request with another one gets 400. ``None`` for any
        :raises ConfigError: Flask-WTF is not installed, or *authorize* is not a function
        """
        try:
            from .admin.blueprint import make_blueprint
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in ("flask_wtf", "wtforms"):
                raise
            message = "The pages need Flask-WTF: pip install uwsgi-waffle[admin]"
            raise ConfigError(message) from error
        return make_blueprint(self._state, authorize, trusted_hosts)

    def _state(self) -> State:
        """Return the state of the one application, or of the current one where there are several.

        :raises WaffleError: there is none, or several and none is current
        """
        state = self._state_at_hand()
        if state is not None:
            return state
        if not self._count:
            message = "This WaffleConf has no app yet. Call init_app(app) first."
            raise WaffleError(message)
        message = (
            "This WaffleConf serves several apps, and none of them is current. "
            "Use it within `with app.app_context():`."
        )
        raise WaffleError(message)

    def _state_at_hand(self) -> State | None:
        if self._only is not None:
            return self._only
        if self._count and has_app_context():
            return cast("State | None", current_app.extensions.get(EXTENSION_NAME))
        return None


def _no_pin() -> Pin:
    return NO_PIN


def _current_app() -> Flask | None:
    return current_app._get_current_object() if has_app_context() else None  # type: ignore[attr-defined]  # noqa: SLF001  # so Flask's docs have it
