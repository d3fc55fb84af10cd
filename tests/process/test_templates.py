"""Templates see the settings of their request, under the name ``waffle``."""

from __future__ import annotations

from flask import render_template_string

from tests.conftest import Apps
from tests.support.waiting import NEVER_SECONDS
from uwsgi_waffle import WaffleSettings


class Settings(WaffleSettings):
    """One setting."""

    SITENAME: str = "Waffle"


def test_a_template_sees_the_settings_of_its_request(apps: Apps) -> None:
    app, waffle = apps(Settings, WAFFLE_POLL_SECONDS=NEVER_SECONDS)

    @app.get("/")
    def index() -> str:
        waffle.update({"SITENAME": "New"})
        return render_template_string("{{ waffle.SITENAME }}")

    client = app.test_client()
    assert [client.get("/").text for _ in range(2)] == ["Waffle", "New"]
    with waffle.override(SITENAME="x"):
        assert client.get("/").text == "x"


def test_what_a_view_passes_wins(apps: Apps) -> None:
    app, _ = apps(Settings)
    with app.test_request_context():
        assert render_template_string("{{ waffle }}", waffle="mine") == "mine"


def test_a_key_leaves_it_out(apps: Apps) -> None:
    app, _ = apps(Settings, WAFFLE_TEMPLATES=False)
    app.jinja_env.globals["waffle"] = "mine"
    with app.test_request_context():
        assert render_template_string("{{ waffle }}") == "mine"


def test_each_application_of_an_extension_has_its_own(apps: Apps) -> None:
    first, waffle = apps(Settings)
    second = apps.flask(host="there", WAFFLE_NAMESPACE="second")
    apps.init(waffle, second)
    for app, name in ((first, "First"), (second, "Second")):
        with app.app_context():
            waffle.update({"SITENAME": name})
    for app, name in ((first, "First"), (second, "Second")):
        with app.test_request_context():
            assert render_template_string("{{ waffle.SITENAME }}") == name
