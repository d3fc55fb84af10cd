"""What an application does, as type checkers see it; it never runs.

mypy checks it with everything else, pyright in tests/project/test_types.py. A line that has to be
refused says so by a comment, and both checkers refuse a comment that is not needed.
"""

from __future__ import annotations

from typing import Any

from flask import Flask
from pydantic import Field
from typing_extensions import assert_type

from uwsgi_waffle import Update, WaffleConf, WaffleSettings
from uwsgi_waffle.testing import WaffleOverride


class Settings(WaffleSettings):
    """What it declares."""

    SITENAME: str = Field("Waffle", description="Shown in the header")
    TAGS: tuple[str, ...] = ()
    LIMIT: int | None = None


app = Flask(__name__)
waffle = WaffleConf(app, Settings)
assert_type(waffle, WaffleConf[Settings])
assert_type(waffle.settings, Settings)
assert_type(waffle.settings.SITENAME, str)
assert_type(waffle.settings.TAGS, tuple[str, ...])
assert_type(waffle.settings.LIMIT, int | None)
assert_type(WaffleConf(settings=Settings).settings.SITENAME, str)
assert_type(WaffleConf(app).settings, Any)
assert_type(waffle.update({"SITENAME": "New"}), Update)
waffle.settings.SITENAM.upper()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
WaffleConf(app, Flask)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]


@waffle.on_change("LIMIT")
def changed(old: int | None, new: int | None) -> None: ...


assert_type(changed(1, 2), None)


@waffle.override(SITENAME="x")
async def read(more: int) -> str:
    return f"{more} {waffle.settings.SITENAME}"


read("many")  # type: ignore[arg-type, unused-coroutine]  # pyright: ignore[reportArgumentType, reportUnusedCoroutine]


def test_it(waffle_override: WaffleOverride) -> None:
    waffle_override(SITENAME="x")
    waffle_override("x")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
