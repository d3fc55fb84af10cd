"""Every page is accessible: by axe, at phone width, light and dark, within its policy."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.admin.browser import Browser
from tests.support import UwsgiServer, request

PAGES = (
    "settings",
    "invalid",
    "review",
    "conflict",
    "revision",
    "history",
    "compare",
    "rollback",
    "status",
    "readonly",
    "forbidden",
)


def show(browser: Browser, server: UwsgiServer, page: str) -> None:
    """Open a page."""
    if page in {"settings", "history", "status"}:
        browser.open({"settings": "/"}.get(page, f"/{page}"))
    elif page == "invalid":
        browser.fill("MAX_FILESIZE", "0")
        browser.fill("ALLOWED", "[")
        browser.go()
    elif page in {"review", "conflict"}:
        browser.fill("SITENAME", f"Mine, {page}")
        browser.fill("MAIL_PASSWORD", "open sesame")
        if page == "conflict":
            change(server, "SITENAME", "Theirs again")
        browser.go()
    elif page in {"revision", "compare", "rollback"}:
        change(server, "NOTE", "\n".join(map(str, range(100))))  # scrolls in its cell
        change(server, "NOTE", "short")
        revision = change(server, "NOTE", "\n".join(map(str, range(100, 200))))
        path = {"revision": f"/revision/{revision}", "compare": f"/compare?a={revision - 1}"}
        browser.open(path.get(page, f"/rollback/{revision - 1}"))
    else:
        browser.become({"readonly": "reader"}.get(page, "nobody"))
        browser.open()


def change(server: UwsgiServer, name: str, value: object) -> int:
    """Change a setting as another person, and return the revision."""
    answer = request(
        "PATCH",
        "/waffle/api/settings",
        port=server.port,
        json={name: value, "comment": "as another person"},
        headers={"If-Match": "*", "X-User": "bob"},
    )
    assert answer.status == 200, answer.text
    revision: int = answer.json()["revision"]
    return revision


@pytest.fixture
def shown(browser: Browser, server: UwsgiServer, page: str) -> Iterator[Browser]:
    """Show a page."""
    change(server, "SITENAME", "Before")
    browser.open()
    show(browser, server, page)
    yield browser
    browser.media()


@pytest.mark.parametrize("page", PAGES)
def test_neither_axe_nor_the_policy_refuses_anything_of_a_page(shown: Browser) -> None:
    """Light and dark, wide and narrow; nor is a page wider than the screen."""
    for scheme in ("light", "dark"):
        for width in (1200, 360):
            shown.media(width=width, scheme=scheme)
            assert shown.axe() == [], f"{scheme}, {width} pixels"
            too_wide = shown.driver.execute_script(
                "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
            )
            assert too_wide <= 0, f"{scheme}, {width} pixels"
    assert shown.violations() == []
