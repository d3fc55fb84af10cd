"""Change a running Flask application's settings, in every process at once.

Names are imported when they are first asked for: the uWSGI master imports this package for
:mod:`uwsgi_waffle.boot` alone, before anything may be patched or loaded.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .admin.permission import Permission as Permission
    from .bus.fleet import Fleet as Fleet
    from .bus.fleet import HostStatus as HostStatus
    from .bus.fleet import Laggard as Laggard
    from .bus.fleet import NotConverged as NotConverged
    from .bus.fleet import Refusal as Refusal
    from .errors import ConfigError as ConfigError
    from .errors import InvalidSetting as InvalidSetting
    from .errors import RevisionConflict as RevisionConflict
    from .errors import StoreUnavailable as StoreUnavailable
    from .errors import UnknownRevision as UnknownRevision
    from .errors import UnknownSetting as UnknownSetting
    from .errors import WaffleError as WaffleError
    from .extension import WaffleConf as WaffleConf
    from .ops.health import Health as Health
    from .ops.status import Status as Status
    from .process.callbacks import settings_changed as settings_changed
    from .process.writes import Update as Update
    from .sql.history import Change as Change
    from .values.settings import WaffleSettings as WaffleSettings

__version__ = "0.2.0.dev0"

__all__ = [
    # The extension and the base class of declarations
    "WaffleConf",
    "WaffleSettings",
    # What `authorize` may return
    "Permission",
    # What it returns
    "Change",
    "Fleet",
    "Health",
    "HostStatus",
    "Laggard",
    "Refusal",
    "Status",
    "Update",
    # Sent after a change
    "settings_changed",
    # Errors
    "WaffleError",
    "ConfigError",
    "InvalidSetting",
    "NotConverged",
    "RevisionConflict",
    "StoreUnavailable",
    "UnknownRevision",
    "UnknownSetting",
]

_HOMES = {
    "WaffleConf": "extension",
    "WaffleSettings": "values.settings",
    "Permission": "admin.permission",
    "Change": "sql.history",
    "Fleet": "bus.fleet",
    "Health": "ops.health",
    "HostStatus": "bus.fleet",
    "Laggard": "bus.fleet",
    "NotConverged": "bus.fleet",
    "Refusal": "bus.fleet",
    "Status": "ops.status",
    "Update": "process.writes",
    "settings_changed": "process.callbacks",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module, and keep it."""
    if name not in __all__:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    value = getattr(import_module(f".{_HOMES.get(name, 'errors')}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
