"""The settings of Zou: copied into its package as `zou/app/settings.py`."""

from __future__ import annotations

import sys

from flask import Flask, Request
from flask_jwt_extended import current_user, verify_jwt_in_request
from pydantic import Field
from zou.app.utils import permissions

from uwsgi_waffle import WaffleConf, WaffleSettings


class Settings(WaffleSettings):
    """What an operator may change; Zou reads it from `app.config`, which is up to date."""

    NB_RECORDS_PER_PAGE: int = Field(100, ge=1, le=1000, description="Records on one page")


waffle = WaffleConf(settings=Settings)


def init_app(app: Flask) -> None:
    """Set the extension up, in the database of the application, whose migrations leave it alone."""
    app.config.from_prefixed_env()
    app.config["WAFFLE_MULTIPROC"] = "pytest" not in sys.modules
    waffle.init_app(app)
    app.register_blueprint(waffle.admin(authorize=who), url_prefix="/waffle")


def who(_request: Request) -> str | None:
    """Return the address of the administrator whose token came along, if one did."""
    verify_jwt_in_request(optional=True)
    return current_user.email if current_user and permissions.has_admin_permissions() else None
