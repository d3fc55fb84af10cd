"""A real Chromium without a window, and axe, which looks at pages as a screen reader would."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.common.exceptions import NoSuchElementException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from tests.support import require, require_program
from tests.support.waiting import SOON_SECONDS, wait_until

AXE_VERSION = "4.10.3"

_OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
#: Runs before anything of a page, and notes what its policy refuses.
_NOTE_VIOLATIONS = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => {
  window.violations.push(`${event.violatedDirective} ${event.blockedURI} ${event.sample}`);
});
"""


def fetch_axe() -> Path:
    """Return the path of axe, fetched with npm the first time."""
    kept = Path(sys.prefix) / "share" / "uwsgi-waffle-tests" / f"axe-{AXE_VERSION}.js"
    if not kept.exists():
        npm = require_program("npm")
        with tempfile.TemporaryDirectory() as directory:
            command = [npm, "pack", "--silent", f"axe-core@{AXE_VERSION}"]
            done = subprocess.run(command, cwd=directory, check=False, capture_output=True)
            packed = next(Path(directory).glob("*.tgz"), None)
            require(packed, f"axe-core from npm ({done.stderr.decode()[-200:]})")
            assert packed is not None
            with tarfile.open(packed) as archive:
                found = archive.extractfile("package/axe.min.js")
                assert found is not None
                kept.parent.mkdir(parents=True, exist_ok=True)
                kept.write_bytes(found.read())
    return kept


class Browser:
    """A browser at the pages of one server."""

    def __init__(self, driver: webdriver.Chrome, address: str) -> None:
        """Use a running browser."""
        self.driver = driver
        self.address = address

    def open(self, path: str = "/") -> None:
        """Open a page."""
        self.driver.get(f"{self.address}/waffle{path}")

    def become(self, name: str) -> None:
        """Be known under another name from now on."""
        self.driver.add_cookie({"name": "who", "value": name})

    def one(self, selector: str) -> WebElement:
        """Return the element that a selector finds."""
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def fill(self, name: str, text: str) -> None:
        """Type a setting anew."""
        element = self.one(f"[name={name}]:not([type=hidden])")
        element.clear()
        element.send_keys(text)

    def go(self) -> None:
        """Press the button that the page is about, and return when another page is there."""
        before = self.one("html")
        self.one("button.primary").click()

        def has_another_page() -> bool:
            with contextlib.suppress(NoSuchElementException):  # between the two pages
                return bool(self.one("html") != before)
            return False

        wait_until(has_another_page, SOON_SECONDS, "another page came")

    def wait_for(self, text: str) -> None:
        """Return when the page shows a text."""
        wait_until(
            lambda: text in self.text, SOON_SECONDS, f"the page shows {text!r}, in {self.text}"
        )

    @property
    def text(self) -> str:
        """What the page shows."""
        text: str = self.driver.execute_script(
            "return document.body ? document.body.innerText : ''"
        )
        return text

    @property
    def path(self) -> str:
        """The path of the page, below the blueprint's."""
        return self.driver.current_url.removeprefix(f"{self.address}/waffle")

    def violations(self) -> list[str]:
        """Return what the page's policy has refused."""
        found: list[str] = self.driver.execute_script("return window.violations")
        return found

    def media(self, *, width: int = 1200, scheme: str = "light", height: int = 900) -> None:
        """Show pages in a size, and light or dark."""
        self.driver.execute_cdp_cmd(
            "Emulation.setEmulatedMedia",
            {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
        )
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
        )

    def allow_scripts(self, *, allowed: bool) -> None:
        """Let pages run scripts, or not."""
        self.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not allowed})

    def axe(self) -> list[str]:
        """Return what axe has against the page."""
        found: list[dict[str, Any]] = self.driver.execute_async_script("""
            const done = arguments[0];
            const run = () => axe.run(document, {
              runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
              resultTypes: ["violations"],
            }).then((found) => done(found.violations));
            if (window.axe) {
              run();
            } else {
              const script = document.createElement("script");
              script.src = "/axe.js";
              script.onload = run;
              document.head.append(script);
            }
        """)
        return [
            f"{one['id']}: {one['help']}: {[node['html'][:200] for node in one['nodes']]}"
            for one in found
        ]


@contextmanager
def chromium() -> Iterator[webdriver.Chrome]:
    """Run a browser with a profile of its own, ended and removed at the end."""
    options = webdriver.ChromeOptions()
    options.binary_location = require_program("chromium", "chromium-browser", "google-chrome")
    driver_path = require_program("chromedriver")
    profile = tempfile.mkdtemp(prefix="waffle-chromium-")
    for option in (*_OPTIONS, f"--user-data-dir={profile}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    options.set_capability("unhandledPromptBehavior", "accept")
    driver = webdriver.Chrome(options=options, service=Service(driver_path))
    try:
        driver.set_page_load_timeout(30)
        driver.set_script_timeout(30)
        driver.execute_cdp_cmd(
            "Page.addScriptToEvaluateOnNewDocument", {"source": _NOTE_VIOLATIONS}
        )
        yield driver
    finally:
        driver.quit()
        shutil.rmtree(profile, ignore_errors=True)
