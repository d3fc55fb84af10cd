"""The extension: what an application declares, changes and asks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from threading import get_ident
from typing import TYPE_CHECKING, Any, Generic, TypedDict, TypeVar, overload

# pydantic_core is first to fail in a second interpreter of uWSGI, where boot must not run again.
import pydantic_core  # noqa: F401  # (as above)
from flask import current_app, has_app_context

from . import boot
from .config import Config
from .errors import ConfigError
from .operations import Operations
from .process.applications import EXTENSION_NAME, AncestorState, Applications
from .process.callbacks import Handler
from .process.overrides import Override
from .process.parts import Common
from .process.pins import NO_PIN, Pin
from .process.state import State
from .process.writes import Update
from .sql.application import ApplicationDatabase, FlaskDatabase
from .sql.history import Change
from .sql.joining import Connection
from .sql.store import Signature
from .values.settings import WaffleSettings, check_model, refuse_store
from .values.snapshot import Snapshot

if TYPE_CHECKING:
    from flask import Flask
    from typing_extensions import Unpack

    from .bus.client import RedisClient

    class _GivenObjects(TypedDict, total=False):
        db: FlaskDatabase | None
        redis: RedisClient | None


__all__ = ["WaffleConf"]

S = TypeVar("S", bound=WaffleSettings)


class WaffleConf(Operations, Generic[S]):
    """Settings of a Flask application that change while it runs, in every process at once.

    ::

        waffle = WaffleConf(app, Settings)
        waffle.settings.SITENAME
    """

    @overload
    def __init__(
        self, app: Flask | None, settings: type[S], **given: Unpack[_GivenObjects]
    ) -> None: ...

    @overload
    def __init__(
        self, app: Flask | None = None, *, settings: type[S], **given: Unpack[_GivenObjects]
    ) -> None: ...

    @overload
    def __init__(
        self: WaffleConf[Any], app: Flask | None = None, **given: Unpack[_GivenObjects]
    ) -> None: ...

    def __init__(
        self,
        app: Flask | None = None,
        settings: type[S] | None = None,
        *,
        db: FlaskDatabase | None = None,
        redis: RedisClient | None = None,
        configstore: None = None,
    ) -> None:
        """Declare settings; with an application, set it up.

        :param app: the application; leave it out to call :meth:`init_app` later
        :param settings: a subclass of :class:`WaffleSettings`; leave it out to declare settings in
            ``WAFFLE_CONFS``
        :param db: the application's Flask-SQLAlchemy, whose database is used, and among whose
            tables ours are; in place of ``WAFFLE_DATABASE_URI``
        :param redis: a ready Redis client (of a Sentinel, a Cluster) in place of an address
        :param configstore: refused; Flask-WaffleConf has it
        :raises ConfigError: a key or a declaration cannot work
        """
        refuse_store(configstore)
        self._db = db
        self._common = Common(settings, redis)
        self._applications = Applications()
        #: Returns the pin of the request at hand; where there are several applications, no pin.
        self._pin: Callable[[], Pin] = _no_pin
        #: Returns the snapshot to see where there is no pin.
        self._unpinned: Callable[[], Snapshot] = self._seen
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask, configstore: None = None) -> None:
        """Set an application up: read its ``WAFFLE_*`` keys and load its settings.

        Changes to the keys after this call have no effect. ``app.extensions["waffleconf"]`` is the
        state of the application.

        :param configstore: refused; Flask-WaffleConf has it
        :raises ConfigError: a key or a declaration cannot work
        """
        refuse_store(configstore)
        if EXTENSION_NAME in app.extensions:
            message = f"The app {app.name!r} has a WaffleConf already. Import and use that one."
            raise ConfigError(message)
        database = None if self._db is None else ApplicationDatabase(app, self._db)
        config = Config.from_app(app, None if database is None else database.url)
        if self._common.model is not None:
            check_model(self._common.model)
            if config.confs is not None:
                message = "Settings are declared twice: as a class and in WAFFLE_CONFS. Remove one."
                raise ConfigError(message, key="WAFFLE_CONFS")
        boot.install()
        state = State(app, config, self._common, database)
        self._applications.add(app, state)
        is_only = self._applications.only is state
        self._pin = state.pins.here if is_only else _no_pin
        self._unpinned = state.pins.unpinned if is_only else self._seen

    # -- read ---------------------------------------------------------------------------------

    @property
    def settings(self) -> S:
        """The typed settings; within a request, those of the snapshot it started with."""
        # By a name of its own: CPython 3.11 looks for a method on each call of an attribute.
        find_pin = self._pin
        pin = find_pin()
        snapshot = pin.snapshot
        if snapshot is None or pin.thread != get_ident():
            see = self._unpinned
            snapshot = see()
        return snapshot.settings  # type: ignore[return-value]  # the model that init_app was given

    @property
    def revision(self) -> int:
        """The revision of :attr:`settings`; 0 before the first change."""
        return self._seen().revision

    def _seen(self) -> Snapshot:
        """Return the snapshot to see where none is pinned for the only application."""
        return self._applications.find().pins.seen()

    @property
    def state(self) -> AncestorState:
        """``app.extensions["waffleconf"]``, under the name that Flask-WaffleConf gives it.

        :raises WaffleError: there is no application, or none of several is current
        """
        return self._applications.find()

    # -- write --------------------------------------------------------------------------------

    def update(
        self,
        values: Mapping[str, object],
        *,
        actor: str | None = None,
        comment: str | None = None,
        expected_revision: int | None = None,
        connection: Connection | None = None,
    ) -> Update:
        """Set some settings, all or none, as one revision.

        It returns after the commit. From then on every request that starts on this host sees the
        change; other hosts follow the announcement, or poll. Values equal to the present ones make
        no revision. After the commit nothing is raised.

        :param values: name -> value
        :param actor: who changes them
        :param comment: why
        :param expected_revision: refuse unless this is the present revision
        :param connection: one with a transaction of the caller's that the change joins, such as
            ``db.session.connection()``. It arrives everywhere after that is committed, and never
            where it is rolled back; until then, no read sees it. Nothing is tried again
        :raises UnknownSetting: a name is not declared
        :raises InvalidSetting: a value, or the whole, is refused
        :raises RevisionConflict: the settings are not at the expected revision
        :raises StoreUnavailable: the database did not answer
        """
        if not isinstance(values, Mapping):
            message = f"The values must be a mapping of name to value, not {type(values).__name__}."
            raise TypeError(message)
        return self._applications.find().writer.update(
            values, Signature(actor, comment), expected_revision, connection
        )

    def reset(
        self,
        *names: str,
        actor: str | None = None,
        comment: str | None = None,
        expected_revision: int | None = None,
        connection: Connection | None = None,
    ) -> Update:
        """Set some settings back to their defaults, as one revision; raises as :meth:`update`."""
        return self._applications.find().writer.reset(
            names, Signature(actor, comment), expected_revision, connection
        )

    def rollback(
        self,
        revision: int,
        *,
        actor: str | None = None,
        comment: str | None = None,
        expected_revision: int | None = None,
        connection: Connection | None = None,
    ) -> Update:
        """Make a new revision equal to an earlier one; raises as :meth:`update`.

        :raises UnknownRevision: the history does not hold that revision
        """
        return self._applications.find().writer.rollback(
            revision, Signature(actor, comment), expected_revision, connection
        )

    def history(
        self, name: str | None = None, limit: int | None = 50, *, reveal: bool = False
    ) -> list[Change]:
        """Return changes, newest first; secrets are masked unless *reveal*.

        :param name: one setting only
        :param limit: how many at most, ``None`` for all
        :raises StoreUnavailable: the database did not answer
        """
        return self._applications.find().history.changes(name, limit, reveal=reveal)

    # -- follow -------------------------------------------------------------------------------

    def on_change(self, *names: str) -> Callable[[Handler], Handler]:
        """Call the decorated function in every process after one of the settings has changed.

        It is called with the old and the new value, with the new one, or with nothing, by how many
        arguments it has; once for each of the *names* that changed; within an application context.
        It runs beside the requests: :meth:`update`, and a request that sees the change, wait for
        half a second at most. What it raises is logged.

        :raises UnknownSetting: a name is not declared
        :raises TypeError: there is no name, as in ``@waffle.on_change`` without them
        """
        register = self._common.callbacks.registering(names)
        only = self._applications.only
        if only is not None:
            only.declaration.check_known(names)
        return register

    def refresh(self) -> bool:
        """Read SQL now, and return whether that brought newer settings.

        Within a request, :attr:`settings` stay those that it started with.

        :raises StoreUnavailable: the database did not answer
        """
        return self._applications.find().refresh()

    def follow(self) -> int:
        """Have the request at hand see the newest settings from now on; return their revision.

        A request keeps the settings that it started with. One that lasts, such as a websocket or a
        stream of events, calls this where it can take newer ones. It reads no database.
        """
        return self._applications.find().pins.follow().revision

    def override(self, **values: object) -> Override:
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
        state = self._applications.at_hand()
        if state is not None:
            state.pins.see_overrides()


def _no_pin() -> Pin:
    return NO_PIN


def _current_app() -> Flask | None:
    return current_app._get_current_object() if has_app_context() else None  # type: ignore[attr-defined]  # noqa: SLF001  # so Flask's docs have it
