"""An application of ordinary size: a factory, blueprints, Flask-SQLAlchemy and Flask-Migrate."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Flask, jsonify
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy
from pydantic import Field
from sqlalchemy import String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from uwsgi_waffle import WaffleConf, WaffleSettings


class Base(DeclarativeBase):
    """The models of the shop."""


class Settings(WaffleSettings):
    """What the shop's operators change."""

    SHOP: str = "Waffle"
    MAX_ORDERS: int = Field(10, ge=1)


db = SQLAlchemy(model_class=Base)
waffle = WaffleConf(settings=Settings, db=db)
catalogue = Blueprint("catalogue", __name__)
desk = Blueprint("desk", __name__, url_prefix="/desk")


class Order(db.Model):  # type: ignore[misc,name-defined]  # made by SQLAlchemy when it runs
    """An order."""

    id: Mapped[int] = mapped_column(primary_key=True)
    what: Mapped[str] = mapped_column(String(50))


@catalogue.get("/")
def index() -> Any:
    """Return what a customer sees."""
    return jsonify(shop=waffle.settings.SHOP, orders=db.session.query(Order).count())


@desk.post("/promote/<what>")
def promote(what: str) -> Any:
    """Store an order and rename the shop, both or neither."""
    db.session.add(Order(what=what))
    update = waffle.update({"SHOP": what}, connection=db.session.connection())
    if what == "refused":
        db.session.rollback()
    else:
        db.session.commit()
    before = waffle.settings.SHOP
    waffle.follow()
    return jsonify(revision=update.revision, before=before, after=waffle.settings.SHOP)


def create_app(uri: str, directory: str, **config: Any) -> Flask:
    """Return the application."""
    app = Flask("shop", instance_path=directory)
    app.config.update(
        SQLALCHEMY_DATABASE_URI=uri,
        WAFFLE_SNAPSHOT_PATH=f"{directory}/host/snapshot",
        **config,
    )
    db.init_app(app)
    waffle.init_app(app)
    Migrate(app, db)
    app.register_blueprint(catalogue)
    app.register_blueprint(desk)
    return app
