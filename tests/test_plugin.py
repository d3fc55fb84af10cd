"""The plugin of pytest, in runs of pytest of its own."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from tests.support.availability import require

pytest_plugins = ["pytester"]

#: Other plugins of this environment, which take longer to load than the tests to run.
WITHOUT_OTHERS = ("-p", "no:cacheprovider", "-p", "no:schemathesis", "-p", "no:hypothesispytest")

CONFTEST = """
import pytest
from flask import Flask
from uwsgi_waffle import WaffleConf, WaffleSettings

class Settings(WaffleSettings):
    SITENAME: str = "Waffle"
    SIZE: int = 1

waffle = WaffleConf(settings=Settings)

def create_app(**config):
    app = Flask(__name__)
    app.config.update(config)
    waffle.init_app(app)

    @app.get("/")
    def index():
        return waffle.settings.SITENAME

    return app

@pytest.fixture
def app(tmp_path):
    return create_app(
        TESTING=True,
        WAFFLE_DATABASE_URI=f"sqlite:///{tmp_path}/waffle.db",
        WAFFLE_SNAPSHOT_PATH=str(tmp_path / "snapshot"),
    )

@pytest.fixture
def client(app):
    return app.test_client()
"""

TESTS = """
import threading
import pytest
from uwsgi_waffle import InvalidSetting, UnknownSetting

@pytest.mark.parametrize("name", ["one", "two", "three", "four"])
def test_each_test_overrides_for_itself(client, waffle_override, name):
    assert client.get("/").text == "Waffle"
    waffle_override(SITENAME=name)
    assert client.get("/").text == name
    waffle_override(SIZE=2)
    waffle_override(SITENAME=f"{name} again")
    assert client.get("/").text == f"{name} again"

def test_the_next_one_sees_nothing_of_it(client):
    assert client.get("/").text == "Waffle"

def test_a_refused_value(client, waffle_override):
    with pytest.raises(InvalidSetting):
        waffle_override(SIZE="many")
    with pytest.raises(UnknownSetting):
        waffle_override(SITE="x")
    assert client.get("/").text == "Waffle"

def test_another_thread_sees_the_stored_values(client, waffle_override):
    waffle_override(SITENAME="x")
    seen = []
    thread = threading.Thread(target=lambda: seen.append(client.get("/").text))
    thread.start()
    thread.join()
    assert seen == ["Waffle"]
"""


ASYNC_TESTS = """
import pytest
from conftest import waffle

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

async def test_by_the_fixture(client, waffle_override):
    waffle_override(SITENAME="x")
    assert client.get("/").text == "x"

async def test_by_nothing(client):
    assert client.get("/").text == "Waffle"

@waffle.override(SITENAME="y")
async def test_by_the_decorator(client):
    assert client.get("/").text == "y"

@pytest.fixture
@waffle.override(SITENAME="z")
def overridden(client):
    yield client

async def test_by_a_decorated_fixture(overridden):
    assert overridden.get("/").text == "z"
"""


@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["one process", "several processes"])
def test_the_fixture_overrides_to_the_end_of_a_test(
    pytester: pytest.Pytester, options: tuple[str, ...]
) -> None:
    require(find_spec("anyio"), "anyio (pip install --group dev)")
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_it=TESTS, test_async=ASYNC_TESTS)
    done = pytester.runpytest_subprocess(*WITHOUT_OTHERS, *options, timeout=100)
    assert done.parseoutcomes()["passed"] == 7 + 4
    assert done.ret == pytest.ExitCode.OK


def test_an_app_without_settings_is_named(pytester: pytest.Pytester) -> None:
    test = "def test_it(waffle_override):\n    pass\n"
    fixture = "@pytest.fixture\ndef app():\n    return Flask('a')\n"
    another = f"import pytest\nfrom flask import Flask\n{fixture}{test}"
    pytester.makepyfile(test_without=test, test_with_another=another)
    done = pytester.runpytest_subprocess(*WITHOUT_OTHERS)
    done.assert_outcomes(errors=2)
    named = "*a fixture named `app`, which returns*WaffleConf*"
    done.stdout.fnmatch_lines([named, named])


def test_the_plugin_alone_loads_nothing_else(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys

        def test_it(request):
            assert request.config.pluginmanager.has_plugin("uwsgi_waffle")
            assert not {"flask", "sqlalchemy", "redis", "pydantic"} & set(sys.modules)
        """
    )
    pytester.runpytest_subprocess(*WITHOUT_OTHERS).assert_outcomes(passed=1)
