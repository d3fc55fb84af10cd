"""The settings of microblog: copied into its package as `app/settings.py`."""

from __future__ import annotations

from flask import Flask, Request
from flask_login import current_user
from pydantic import Field

from uwsgi_waffle import WaffleConf, WaffleSettings

ADMINS = {"admin"}


class Settings(WaffleSettings):
    """What an operator may change; microblog reads it from `app.config`, which is up to date."""

    POSTS_PER_PAGE: int = Field(25, ge=1, le=100, description="Posts on one page")


waffle = WaffleConf(settings=Settings)


def init_app(app: Flask) -> None:
    """Set the extension up, in the database of the application."""
    app.config.from_prefixed_env()
    app.config["WAFFLE_MULTIPROC"] = not app.testing
    waffle.init_app(app)
    app.register_blueprint(waffle.admin(authorize=who), url_prefix="/waffle")


def who(_request: Request) -> str | None:
    """Return the name of the administrator who is logged in, if one is."""
    is_admin = current_user.is_authenticated and current_user.username in ADMINS
    return current_user.username if is_admin else None
