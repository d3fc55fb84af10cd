"""The demo: a page that shows the settings and who answered, and a form to change them.

Nothing here knows of processes. Change a setting, reload the page a few times, and see another
worker answer with the new value each time.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

from flask import Flask, Response, abort, jsonify, redirect, render_template, request
from pydantic import Field, model_validator
from typing_extensions import Self
from werkzeug.wrappers import Response as BaseResponse

from uwsgi_waffle import (
    InvalidSetting,
    RevisionConflict,
    StoreUnavailable,
    UnknownSetting,
    WaffleConf,
    WaffleSettings,
)

try:
    import uwsgi
except ImportError:  # under `flask run`, for example
    uwsgi = None


class Settings(WaffleSettings):
    """What may be changed while the demo runs."""

    SITENAME: str = Field("Waffle", min_length=1, max_length=40, description="Name in the header")
    THEME: Literal["batter", "syrup", "berry"] = Field("batter", description="Colour of the page")
    CLOSED: bool = Field(default=False, description="Show a notice that the site is closed")
    MIN_FILESIZE: int = Field(1, ge=0, description="Smallest upload (bytes)")
    MAX_FILESIZE: int = Field(1000, ge=1, description="Largest upload (bytes)")

    @model_validator(mode="after")
    def _smallest_fits_in_largest(self) -> Self:
        if self.MIN_FILESIZE > self.MAX_FILESIZE:
            message = "the smallest upload is larger than the largest"
            raise ValueError(message)
        return self


# The folder is beside this file: the server and `flask waffle` share a database, whatever name
# each of them imports this by.
app = Flask(__name__, instance_path=str(Path(__file__).resolve().parent / "instance"))
app.config["WAFFLE_MULTIPROC"] = True
# Without any of these: SQLite in the instance folder, and Redis at localhost if there is one.
for key in (
    "WAFFLE_AUTO_CREATE",
    "WAFFLE_DATABASE_URI",
    "WAFFLE_REDIS_HOST",
    "WAFFLE_REDIS_PORT",
    "WAFFLE_REDIS_URL",
    "WAFFLE_SNAPSHOT_PATH",
):
    if key in os.environ:
        app.config[key] = os.environ[key]

waffle = WaffleConf(app, Settings)


def secret_key() -> str:
    """Return the key of the sessions: one that the first process has made, and each one reads.

    An application gets it from a safe place. The demo makes a random one beside its database.
    """
    directory = Path(os.environ.get("WAFFLE_DEMO_SECRETS", app.instance_path))
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "secret_key"
    if not path.exists():
        # Whole before it has its name; the first one that has it stays.
        own = directory / f".secret_key.{secrets.token_hex(8)}"
        own.touch(mode=0o600)
        own.write_text(secrets.token_hex(32))
        with suppress(FileExistsError):
            path.hardlink_to(own)
        own.unlink()
    return path.read_text()


HAS_PAGES = find_spec("flask_wtf") is not None
if HAS_PAGES:
    # An application has users; the demo knows addresses only.
    app.secret_key = os.environ.get("SECRET_KEY") or secret_key()
    pages = waffle.admin(authorize=lambda asked: asked.remote_addr)
    app.register_blueprint(pages, url_prefix="/waffle")

#: How a refused change is answered.
STATUS: dict[type[Exception], int] = {
    UnknownSetting: 400,
    RevisionConflict: 409,
    StoreUnavailable: 503,
}


@app.get("/")
def show() -> str:
    """Show the settings, and who answered."""
    return page(waffle.settings.model_dump())


@app.post("/settings")
def change() -> tuple[str, int] | BaseResponse:
    """Change the settings that the form holds, all or none."""
    # The demo has no users, hence no tokens; but no other site may post here through a browser.
    if request.headers.get("Sec-Fetch-Site", "none") not in {"none", "same-origin"}:
        abort(403)
    # A box that is not ticked sends the "false" of the hidden field before it, a ticked one both.
    values = {name: given[-1] for name, given in request.form.lists()}
    revision = values.pop("revision", None)
    try:
        waffle.update(
            values,
            actor=request.remote_addr,
            expected_revision=int(revision) if revision else None,
        )
    except InvalidSetting as error:
        found = {"".join(map(str, item["loc"][:1])): item["msg"] for item in error.errors}
        return page({**waffle.settings.model_dump(), **values}, found), 422
    except (UnknownSetting, RevisionConflict, StoreUnavailable) as error:
        return page(waffle.settings.model_dump(), {"": str(error)}), STATUS[type(error)]
    return redirect("/", code=303)


@app.get("/settings.json")
def show_json() -> Response:
    """Answer with the settings, and who answered."""
    return jsonify(settings=waffle.settings.model_dump(mode="json"), **who_answered())


def page(values: dict[str, Any], errors: dict[str, str] | None = None) -> str:
    """Return the page with the form filled by *values*, and *errors* by the name of the setting."""
    fields = [
        {
            "name": name,
            "label": field.description,
            "type": field.annotation,
            "choices": get_args(field.annotation),
            "value": values[name],
        }
        for name, field in Settings.model_fields.items()
    ]
    return render_template(
        "demo.html",
        settings=waffle.settings,
        fields=fields,
        errors=errors or {},
        has_pages=HAS_PAGES,
        bool=bool,
        int=int,
        **who_answered(),
    )


def who_answered() -> dict[str, int]:
    """Return the revision that this process serves, and which process it is."""
    worker = uwsgi.worker_id() if uwsgi else 0
    return {"revision": waffle.revision, "worker": worker, "pid": os.getpid()}
