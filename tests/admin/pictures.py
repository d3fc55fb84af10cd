"""Takes the pictures in docs/images anew: `make pictures`.

Each shows one page wide and on a phone, light and dark.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path

from tests.admin.browser import Browser, chromium, fetch_axe
from tests.admin.conftest import pages_server
from tests.support import RedisServer
from tests.support.places import ROOT

IMAGES = ROOT / "docs" / "images"
#: Pixels of the page, of which the picture shows every second one.
WIDE, PHONE, HEIGHT = 1320, 424, 918
SHEET_WIDTH, SHEET_HEIGHT = 902, 948
SHEET = """<body style="margin: 0; background: #84817a">
<div style="display: grid; grid-template-columns: 660px 212px; gap: 10px; padding: 10px">
{}</div></body>"""


def main() -> None:
    """Walk through the pages, as an operator does."""
    with (
        RedisServer() as redis,
        pages_server(redis, fetch_axe()) as server,
        chromium() as driver,
    ):
        camera = Camera(Browser(driver, f"http://127.0.0.1:{server.port}"))
        camera.walk()


class Camera:
    """Takes pictures of what a browser shows."""

    def __init__(self, browser: Browser) -> None:
        """Take none yet."""
        self.browser = browser

    def walk(self) -> None:
        """Change settings, and take each page on the way."""
        browser = self.browser
        self.visit("settings", "/")
        self.take("invalid", self.refuse)
        self.take("review", self.review)
        browser.fill("MAIL_PASSWORD", "a new one")
        browser.fill("comment", "Launch day: larger uploads")
        browser.go()
        browser.wait_for("5 of 5 processes in ")
        self.shoot("wave")
        self.take("conflict", self.conflict)
        self.visit("history", "/history")
        self.visit("compare", "/compare?a=0&b=2")
        self.visit("rollback", "/rollback/1")
        self.visit("status", "/status")
        for picture, who in (("readonly", "reader"), ("forbidden", "nobody")):
            browser.become(who)
            self.visit(picture, "/")

    def visit(self, picture: str, path: str) -> None:
        """Take a page that has an address."""
        self.take(picture, lambda: self.browser.open(path))

    def take(self, picture: str, show: Callable[[], None]) -> None:
        """Take a page once it is shown."""
        self.browser.media(width=WIDE)
        show()
        self.shoot(picture)

    def shoot(self, picture: str) -> None:
        """Take the page that is there: wide and on a phone, light and dark."""
        shots = []
        for scheme in ("light", "dark"):
            for width in (WIDE, PHONE):
                self.browser.media(width=width, scheme=scheme, height=HEIGHT)
                self.browser.driver.execute_script("window.scrollTo(0, 0)")
                shots.append(self.browser.driver.get_screenshot_as_base64())
        self.browser.media(width=WIDE, height=HEIGHT)
        _sheet(self.browser, shots, IMAGES / f"{picture}.webp")

    # -- what an operator does --------------------------------------------------------------------

    def fill_launch(self) -> None:
        """Edit four settings."""
        self.browser.open("/")
        self.browser.fill("SITENAME", "Waffle & Sons")
        self.browser.fill("MAX_FILESIZE", "2500")
        box = self.browser.one("[name=CLOSED]:not([type=hidden])")
        self.browser.driver.execute_script("arguments[0].click()", box)
        self.browser.fill("MAIL_PASSWORD", "a new one")

    def review(self) -> None:
        """Show what would change."""
        self.fill_launch()
        self.browser.go()

    def refuse(self) -> None:
        """Show what a page says of values that are refused."""
        self.browser.open("/")
        self.browser.fill("SITENAME", "")
        self.browser.fill("MAX_FILESIZE", "0")
        self.browser.driver.execute_script("document.forms[0].noValidate = true")
        self.browser.go()

    def conflict(self) -> None:
        """Show what a page says where another operator was faster."""
        self.browser.open("/")
        self.browser.fill("SITENAME", "The slower one")
        page = self.browser.driver.current_window_handle
        self.browser.driver.switch_to.new_window("tab")
        self.browser.open("/")
        self.browser.fill("SITENAME", "Waffle & Daughters")
        self.browser.go()
        self.browser.fill("comment", "The faster one")
        self.browser.go()
        self.browser.wait_for("5 of 5 processes in ")
        self.browser.driver.close()
        self.browser.driver.switch_to.window(page)
        self.browser.go()


def _sheet(browser: Browser, shots: list[str], path: Path) -> None:
    """Put four pictures onto one sheet, in a tab of its own."""
    driver = browser.driver
    page = driver.current_window_handle
    driver.switch_to.new_window("tab")
    browser.media(width=SHEET_WIDTH, height=SHEET_HEIGHT)
    pictures = "".join(
        f'<img src="data:image/png;base64,{shot}" style="width: 100%; display: block">'
        for shot in shots
    )
    sheet = base64.b64encode(SHEET.format(pictures).encode()).decode()
    driver.get(f"data:text/html;base64,{sheet}")
    taken = driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "webp", "quality": 85})
    path.write_bytes(base64.b64decode(taken["data"]))
    driver.close()
    driver.switch_to.window(page)


if __name__ == "__main__":
    main()
