"""The plugin of pytest, in runs of pytest of its own."""

from __future__ import annotations

import pytest

from tests.support.availability import require

pytest_plugins = ["pytester"]

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


def outcomes(pytester: pytest.Pytester, *options: str) -> dict[str, int]:
    """Run pytest in a process of its own, and return how many tests ended in which way."""
    done = pytester.runpytest_subprocess("-p", "no:cacheprovider", *options, timeout=100)
    return done.parseoutcomes()


def test_the_fixture_overrides_to_the_end_of_a_test(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(TESTS)
    assert outcomes(pytester) == {"passed": 7}


def test_the_fixture_works_in_several_processes(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(TESTS)
    assert outcomes(pytester, "-n", "2")["passed"] == 7


def test_the_fixture_works_in_an_async_test(pytester: pytest.Pytester) -> None:
    require(_has_anyio(), "anyio (pip install --group dev)")
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(
        """
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
    )
    assert outcomes(pytester) == {"passed": 4}


def _has_anyio() -> bool:
    from importlib.util import find_spec

    return find_spec("anyio") is not None


@pytest.mark.parametrize("fixture", ["", "@pytest.fixture\ndef app():\n    return Flask('a')"])
def test_an_app_without_settings_is_named(pytester: pytest.Pytester, fixture: str) -> None:
    test = "def test_it(waffle_override):\n    pass"
    pytester.makepyfile(f"import pytest\nfrom flask import Flask\n{fixture}\n{test}")
    done = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    done.assert_outcomes(errors=1)
    done.stdout.fnmatch_lines(["*a fixture named `app`, which returns*WaffleConf*"])


def test_the_plugin_alone_loads_nothing_else(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys

        def test_it(request):
            assert request.config.pluginmanager.has_plugin("uwsgi_waffle")
            assert not {"flask", "sqlalchemy", "redis", "pydantic"} & set(sys.modules)
        """
    )
    # Other plugins of this environment load Flask.
    done = pytester.runpytest_subprocess(
        *("-p", "no:cacheprovider", "-p", "no:schemathesis", "-p", "no:hypothesispytest")
    )
    done.assert_outcomes(passed=1)
