"""Pages and JSON to see and change settings; :meth:`WaffleConf.admin` makes them a blueprint."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from uwsgi_waffle.errors import ConfigError

if TYPE_CHECKING:
    from flask import Blueprint

    from uwsgi_waffle.process.state import State

    from .permission import Authorize

__all__ = ["make_blueprint"]


def make_blueprint(
    find_state: Callable[[], State], authorize: Authorize, trusted_hosts: Iterable[str] | None
) -> Blueprint:
    """Return the pages; see :meth:`WaffleConf.admin`.

    :raises ConfigError: Flask-WTF is not installed, or *authorize* is not a function
    """
    try:
        from . import blueprint
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("flask_wtf", "wtforms"):
            raise
        message = "The pages need Flask-WTF: pip install uwsgi-waffle[admin]"
        raise ConfigError(message) from error
    return blueprint.make_blueprint(find_state, authorize, trusted_hosts)
