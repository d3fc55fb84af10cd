"""The settings of flaskr: copied into its package as `flaskr/settings.py`."""

from __future__ import annotations

from flask import Flask, Request, abort, g, request
from pydantic import Field

from uwsgi_waffle import WaffleConf, WaffleSettings

ADMINS = {"admin"}


class Settings(WaffleSettings):
    """What an operator may change."""

    REGISTRATION_OPEN: bool = Field(default=True, description="Whether visitors may register")


waffle = WaffleConf(settings=Settings)


def init_app(app: Flask) -> None:
    """Set the extension up; flaskr has no SQLAlchemy URL, but a path to its SQLite file."""
    app.config.from_prefixed_env()
    app.config.setdefault("WAFFLE_DATABASE_URI", f"sqlite:///{app.config['DATABASE']}")
    app.config["WAFFLE_MULTIPROC"] = not app.testing
    waffle.init_app(app)
    app.register_blueprint(waffle.admin(authorize=who), url_prefix="/waffle")
    app.before_request(close_registration)


def who(_request: Request) -> str | None:
    """Return the name of the administrator who is logged in, if one is."""
    return g.user["username"] if g.user is not None and g.user["username"] in ADMINS else None


def close_registration() -> None:
    """Refuse visitors who want to register, where the setting says so."""
    if request.endpoint == "auth.register" and not waffle.settings.REGISTRATION_OPEN:
        abort(403, "Registration is closed.")
