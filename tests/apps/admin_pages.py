"""An application with pages, for a real browser and for a test client."""

from __future__ import annotations

import datetime as dt
import enum
import os
from decimal import Decimal
from typing import Any, Literal

from flask import Flask, Request, Response, jsonify, send_file
from jinja2 import StrictUndefined
from pydantic import BaseModel, ConfigDict, Field, SecretStr, create_model, model_validator
from typing_extensions import Self

from uwsgi_waffle import Permission, WaffleConf, WaffleSettings

#: The defaults of the secrets; they must never be seen.
SECRET_DEFAULT = "swordfish-of-old"  # noqa: S105  # it opens nothing
KEY_DEFAULT = "key-of-old"


class Level(enum.Enum):
    """How much is logged."""

    LOW = "low"
    HIGH = "high"


class Smtp(BaseModel):
    """Where mails go."""

    model_config = ConfigDict(frozen=True)

    host: str = "localhost"
    port: int = Field(default=25, ge=1, le=65535)


class Settings(WaffleSettings):
    """One setting of each kind that the pages have an input for."""

    SITENAME: str = Field("Waffle", min_length=1, description="Name shown in the header")
    THEME: Literal["batter", "syrup", "berry"] = Field("batter", description="Colour of the page")
    CLOSED: bool = Field(default=False, description="Show a notice that the site is closed")
    LEVEL: Level = Field(Level.LOW, description="How much is logged")
    NOTE: str = Field("one\ntwo", description="Shown below the header")
    MIN_FILESIZE: int = Field(
        1, ge=0, description="Smallest upload (bytes)", json_schema_extra={"group": "Uploads"}
    )
    MAX_FILESIZE: int = Field(
        1000, ge=1, description="Largest upload (bytes)", json_schema_extra={"group": "Uploads"}
    )
    ALLOWED: tuple[str, ...] = Field(
        ("png", "jpg"), description="File types", json_schema_extra={"group": "Uploads"}
    )
    RATE: float = Field(0.5, gt=0, le=1, description="Share of requests that are traced")
    PRICE: Decimal = Field(Decimal("9.99"), description="Price of a waffle")
    MAIL_FROM: str | None = Field(None, description="Sender of mails")
    MAIL_SERVER: Smtp = Field(Smtp(), description="Where mails go")
    MAIL_PASSWORD: SecretStr = Field(SecretStr(SECRET_DEFAULT), description="Of the mail server")
    API_KEY: str = Field(KEY_DEFAULT, description="A key", json_schema_extra={"secret": True})
    LAUNCH: dt.datetime = Field(dt.datetime(2026, 1, 1, 12, 30), description="When it opens")  # noqa: DTZ001  # as declared: without a zone
    MEETING: dt.datetime = Field(
        dt.datetime(2026, 1, 1, 12, 30, tzinfo=dt.timezone.utc), description="With a zone"
    )
    DAY_OFF: dt.date | None = Field(None, description="Day without work")
    NIGHTLY: dt.time = Field(dt.time(8, 0), description="When the nightly job runs")

    @model_validator(mode="after")
    def _smallest_fits_in_largest(self) -> Self:
        if self.MIN_FILESIZE > self.MAX_FILESIZE:
            message = "the smallest upload is larger than the largest"
            raise ValueError(message)
        return self


def authorize(request: Request) -> str | Permission | None:
    """Return the name that the header or the cookie holds."""
    name = request.headers.get("X-User") or request.cookies.get("who") or "alice"
    return {
        "nobody": None,
        "reader": Permission("reader", edit=()),
        "partial": Permission("partial", see=("SITENAME", "THEME"), edit=("SITENAME",)),
    }.get(name, name)


def make_app(
    model: type[WaffleSettings] = Settings, **config: Any
) -> tuple[Flask, WaffleConf[Any]]:
    """Return an application with pages at ``/waffle``."""
    app = Flask("Waffle house", instance_path=config.pop("instance_path", None))
    app.config.update({"SECRET_KEY": "for tests only", **config})
    app.jinja_env.undefined = StrictUndefined  # as many applications have it
    waffle = WaffleConf(app, model)
    app.register_blueprint(waffle.admin(authorize=authorize), url_prefix="/waffle")
    return app, waffle


#: Texts that would run, or leave an element marked so, if pages did not escape them.
HOSTILE = (
    "<script data-xss>window.ran=1</script>",
    "</textarea></script><img data-xss src=x onerror=window.ran=1>",
    '"><svg data-xss onload=window.ran=1>',
    "' data-xss onfocus='window.ran=1' autofocus='",
    '" data-xss onmouseover="window.ran=1',
    "javascript:window.ran=1//<i data-xss>",
    "{{ 7 * 191 }}${7 * 191}<%= 7 * 191 %>",
    "</title></style><style data-xss>body{display:none}</style>",
    "<!--<b data-xss>-->]]><b data-xss>",
)


def hostile_model() -> type[WaffleSettings]:
    """Return settings whose descriptions, groups, choices and defaults are hostile."""
    fields: dict[str, Any] = {}
    for number, text in enumerate(HOSTILE):
        field = Field(text, description=text, json_schema_extra={"group": text})
        fields[f"TEXT_{number}"] = (str, field)
        fields[f"CHOICE_{number}"] = (Literal[(text, "other")], Field("other", description=text))
        fields[f"JSON_{number}"] = (dict[str, str], Field({text: text}, description=text))
    return create_model("Hostile", __base__=WaffleSettings, **fields)


SERVED_KEYS = (
    "WAFFLE_DATABASE_URI",
    "WAFFLE_REDIS_CHANNEL",
    "WAFFLE_REDIS_URL",
    "WAFFLE_SNAPSHOT_PATH",
)


def served() -> Flask:
    """Return the application that uWSGI serves; with axe, which a test has fetched."""
    model = hostile_model() if os.environ.get("TEST_MODEL") == "hostile" else Settings
    app, waffle = make_app(
        model,
        instance_path=os.environ["TEST_INSTANCE"],
        WAFFLE_MULTIPROC=True,
        **{key: os.environ[key] for key in SERVED_KEYS},
    )

    @app.get("/")
    def read() -> Response:
        values = waffle.settings.model_dump(mode="json")
        return jsonify(pid=os.getpid(), revision=waffle.revision, values=values)

    @app.get("/axe.js")
    def axe() -> Response:
        return send_file(os.environ["TEST_AXE"])

    return app


if "TEST_AXE" in os.environ:
    app = served()
