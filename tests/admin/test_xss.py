"""Nothing runs of what settings, descriptions, comments and names hold."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.admin.browser import Browser
from tests.admin.conftest import pages_server
from tests.apps.admin_pages import HOSTILE
from tests.support import RedisServer, UwsgiServer, request


@pytest.fixture(scope="module")
def server(shared_redis: RedisServer, axe: Path) -> Iterator[UwsgiServer]:
    """Give a server of hostile settings."""
    with pages_server(shared_redis, axe, TEST_MODEL="hostile") as running:
        yield running


def assert_harmless(browser: Browser) -> None:
    """Check that no text has become an element, and that the policy had nothing to refuse."""
    found = browser.driver.execute_script(
        "return [document.querySelectorAll('[data-xss]').length, window.ran === undefined]"
    )
    assert found == [0, True], browser.driver.page_source
    assert browser.violations() == []
    assert "1337" not in browser.driver.page_source


def test_no_text_becomes_more_than_text(browser: Browser, server: UwsgiServer) -> None:
    assert_harmless(browser)
    for revision, text in enumerate(HOSTILE):
        values = {
            f"TEXT_{revision}": text + text,
            f"CHOICE_{revision}": text,
            f"JSON_{revision}": {text: text + text},
        }
        answer = request(
            "PATCH",
            "/waffle/api/settings",
            port=server.port,
            json={**values, "comment": text},
            headers={"If-Match": f'"{revision}"', "X-User": text},
        )
        assert answer.status == 200, answer.text
    count = len(HOSTILE)
    typed = "%3Cb%20data-xss%3E"
    paths = ["/", "/history", "/compare?a=0", "/rollback/0", "/status"]
    paths += [f"/revision/{revision + 1}" for revision in range(count)]
    paths += [f"/?q={typed}", f"/history?name={typed}", f"/compare?a={typed}", f"/{typed}"]
    for path in paths:
        browser.open(path)
        assert_harmless(browser)


@pytest.mark.parametrize("text", HOSTILE)
def test_what_is_typed_comes_back_as_text(browser: Browser, server: UwsgiServer, text: str) -> None:
    """In the review, in a conflict, in an error and on the way back."""
    browser.open()
    for name in ("TEXT_0", "TEXT_1"):
        browser.fill(name, f"{text} typed")
    browser.fill("JSON_0", text)
    browser.go()
    assert "not JSON" in browser.text
    assert_harmless(browser)
    browser.fill("JSON_0", "{}")
    other = request(
        "PATCH",
        "/waffle/api/settings",
        port=server.port,
        json={"TEXT_0": f"{text} other {text}", "comment": text},
        headers={"If-Match": "*", "X-User": text},
    )
    assert other.status == 200
    browser.go()
    assert_harmless(browser)
    assert "Another change was made meanwhile" in browser.text
    browser.one("input[value=mine]").click()
    browser.go()
    browser.wait_for("of 5 processes")
    assert_harmless(browser)
