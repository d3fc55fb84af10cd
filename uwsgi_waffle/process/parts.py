"""What an application consists of in one process, before any of it changes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from uwsgi_waffle.bus.channel import Bus
from uwsgi_waffle.bus.client import RedisClient, SharedClient
from uwsgi_waffle.bus.reports import HostReports
from uwsgi_waffle.config import Config
from uwsgi_waffle.host.files import default_path
from uwsgi_waffle.host.records import HostSnapshot
from uwsgi_waffle.listen.introduction import host_name
from uwsgi_waffle.listen.reconcile import Reconciler
from uwsgi_waffle.sql.application import ApplicationDatabase
from uwsgi_waffle.sql.history import History
from uwsgi_waffle.sql.hosts import HostRegistry
from uwsgi_waffle.sql.store import Store
from uwsgi_waffle.values.cipher import Cipher
from uwsgi_waffle.values.confs import model_from_confs
from uwsgi_waffle.values.declaration import Declaration
from uwsgi_waffle.values.settings import WaffleSettings

from .callbacks import Callbacks
from .overrides import Overrides

if TYPE_CHECKING:
    from flask import Flask

__all__ = ["Common", "Parts"]


#: Others of this user have the same URL, and another database.
IN_MEMORY = "the database is in the memory of this application alone"


@dataclass(frozen=True)
class Common:
    """What the applications of one extension have in common.

    :ivar model: the declared settings; ``None`` where ``WAFFLE_CONFS`` has them
    :ivar redis: a ready client in place of an address
    """

    model: type[WaffleSettings] | None = None
    redis: RedisClient | None = None
    callbacks: Callbacks = field(default_factory=Callbacks)
    overrides: Overrides = field(default_factory=Overrides)


class Parts:
    """The parts of one application in this process."""

    def __init__(
        self, app: Flask, config: Config, common: Common, database: ApplicationDatabase | None
    ) -> None:
        """Check the declaration and the addresses, and map the host snapshot; connect to nothing.

        :param database: that of the application's Flask-SQLAlchemy
        :raises ConfigError: a key or a declaration cannot work
        """
        self.app = app
        self.config = config
        self.declaration = Declaration(common.model or model_from_confs(config.confs or {}))
        self.cipher = Cipher(config.encryption_keys)
        self.store = Store(config, database)
        self.registry = HostRegistry(self.store)
        self.host_name = host_name()
        self.history = History(self.store, self.declaration, self.cipher)
        chosen = config.snapshot_path
        self.host = host = HostSnapshot(
            chosen or default_path(config),
            config.namespace,
            None if chosen else lambda: default_path(config),
            private_reason=IN_MEMORY if config.is_in_memory and not chosen else None,
            database=None if chosen else config.database_file,
        )
        self.redis = SharedClient(config, common.redis)
        # Nothing that the listener holds may hold the application: the listener ends with it.
        self.bus = Bus(config, self.redis, lambda: host.keys)
        self.reports = HostReports(config, self.redis, host.keys_of)
        self.reconciler = Reconciler(self.store, self.host, config.poll_seconds)
