"""Changing a running application in a real browser, under uWSGI with four workers and a mule."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.admin.browser import Browser
from tests.support import UwsgiServer, request
from tests.support.waiting import SOON_SECONDS, wait_until


def answers(server: UwsgiServer) -> dict[int, Any]:
    """Return what each worker that answers one of many requests serves."""
    found = [server.get("/").json() for _ in range(40)]
    return {one["pid"]: one["values"]["SITENAME"] for one in found}


def test_a_change_spreads_to_every_process_and_is_undone(
    browser: Browser, server: UwsgiServer
) -> None:
    before = server.get("/").json()["values"]["SITENAME"]
    browser.fill("SITENAME", "Seen everywhere")
    assert browser.one("#count").text == "1 changed"
    browser.go()
    assert "Seen everywhere" in browser.text
    browser.fill("comment", "launch day")
    browser.go()
    browser.wait_for("5 of 5 processes in ")
    rows = browser.driver.find_elements(By.CSS_SELECTOR, "#processes tr.applied")
    assert [row.text.split()[1] for row in rows] == ["worker"] * 4 + ["mule"]
    assert all("ms" in row.text for row in rows)
    assert set(answers(server).values()) == {"Seen everywhere"}
    assert "launch day" in browser.text
    browser.driver.find_element(By.PARTIAL_LINK_TEXT, "Undo").click()
    browser.wait_for("Roll back to revision")
    browser.go()
    browser.wait_for("5 of 5 processes in ")
    assert set(answers(server).values()) == {before}
    browser.open("/history")
    assert "launch day" in browser.text
    assert browser.violations() == []


def test_the_page_names_a_missing_process_until_it_follows(
    browser: Browser, server: UwsgiServer
) -> None:
    """One worker sleeps; the page shows by itself when it follows, without being loaded again."""
    asleep = server.worker_pids()[2]
    browser.fill("SITENAME", "Awaited")
    browser.go()
    os.kill(asleep, signal.SIGSTOP)
    try:
        browser.go()
        browser.wait_for("4 of 5 processes")
        assert str(asleep) in browser.one("#missing").text
        assert "waiting" in browser.text
        page = browser.one("html")
    finally:
        os.kill(asleep, signal.SIGCONT)
    browser.wait_for("5 of 5 processes in ")
    assert browser.one("html") == page


def test_without_scripts_the_page_reloads_until_all_have_followed(
    browser: Browser, server: UwsgiServer
) -> None:
    asleep = server.worker_pids()[1]
    browser.allow_scripts(allowed=False)
    try:
        browser.open()
        browser.fill("SITENAME", "By hand")
        browser.go()
        os.kill(asleep, signal.SIGSTOP)
        try:
            browser.go()
            wait_until(
                lambda: "4 of 5 processes" in browser.driver.page_source,
                SOON_SECONDS,
                "all but one have followed",
            )
        finally:
            os.kill(asleep, signal.SIGCONT)
        wait_until(
            lambda: "5 of 5" in browser.driver.page_source,
            SOON_SECONDS,
            "the page has reloaded itself",
        )
    finally:
        browser.allow_scripts(allowed=True)


def test_two_people_at_the_same_setting_are_asked(browser: Browser, server: UwsgiServer) -> None:
    browser.fill("SITENAME", "Mine")
    for values, name in (({"SITENAME": "Theirs"}, "bob"), ({"RATE": 0.125}, "carol")):
        headers = {"If-Match": "*", "X-User": name}
        path = "/waffle/api/settings"
        answer = request("PATCH", path, port=server.port, json=values, headers=headers)
        assert answer.status == 200
    browser.go()
    for text in ("Another change was made meanwhile", "Theirs", "bob", "Mine"):
        assert text in browser.text
    assert "carol" not in browser.text, "another setting is not in conflict"
    browser.one("input[value=mine]").click()
    browser.go()
    browser.wait_for("5 of 5 processes in ")
    values = server.get("/").json()["values"]
    assert (values["SITENAME"], values["RATE"]) == ("Mine", 0.125)


def test_invalid_input_is_shown_where_it_was_typed(browser: Browser) -> None:
    browser.fill("MAX_FILESIZE", "0")
    browser.fill("ALLOWED", '["png", jpg]')
    browser.go()
    assert browser.one("#s-MAX_FILESIZE-error").text == "Input should be greater than or equal to 1"
    assert "column 9" in browser.one("#s-ALLOWED-error").text
    focused = browser.driver.switch_to.active_element
    assert focused.get_attribute("name") == "MAX_FILESIZE"
    assert browser.one("#count").text == "2 changed"


def test_a_form_that_is_not_touched_counts_no_changes(browser: Browser) -> None:
    """Browsers rewrite some values, such as those of dates; that is not a change."""
    assert browser.one("#count").text == ""
    browser.go()
    browser.wait_for("Nothing to save")


def test_search_finds_while_typing(browser: Browser) -> None:
    browser.one("#q").send_keys("upload bytes")
    shown = browser.driver.find_elements(By.CSS_SELECTOR, ".setting:not([hidden]) .name")
    assert [one.text for one in shown] == ["MIN_FILESIZE", "MAX_FILESIZE"]
    browser.one("#q").send_keys(" nonsense")
    assert "No setting matches" in browser.text


def test_the_search_is_kept_and_counts_what_it_hides(browser: Browser) -> None:
    browser.fill("SITENAME", "Hidden later")
    browser.one("body").send_keys("/")
    browser.driver.switch_to.active_element.send_keys("upload bytes")
    assert browser.one("#count").text == "1 changed, 1 of them not shown by the search"
    assert browser.path == "/?q=upload+bytes"
    browser.fill("MIN_FILESIZE", "5000")
    browser.go()
    assert browser.driver.switch_to.active_element.get_attribute("id") == "refused"
    assert browser.one("#q").get_attribute("value") == "upload bytes"
    shown = browser.driver.find_elements(By.CSS_SELECTOR, ".setting:not([hidden]) .name")
    assert [one.text for one in shown] == ["SITENAME", "MIN_FILESIZE", "MAX_FILESIZE"]
    browser.one("#refused a[href='#s-MIN_FILESIZE']").click()
    assert browser.driver.switch_to.active_element.get_attribute("id") == "s-MIN_FILESIZE"


def test_everything_can_be_done_by_keyboard(browser: Browser, server: UwsgiServer) -> None:
    def press(*keys: str) -> None:
        browser.driver.switch_to.active_element.send_keys(*keys)

    def tab_to(selector: str) -> None:
        for _ in range(80):
            found = browser.driver.execute_script(
                "return document.activeElement.matches(arguments[0])", selector
            )
            if found:
                return
            press(Keys.TAB)
        pytest.fail(f"the keyboard does not reach {selector}")

    tab_to("#s-SITENAME")
    press(Keys.CONTROL + "a")
    press("By keyboard")
    tab_to("#s-CLOSED")
    press(Keys.SPACE)
    tab_to("button.primary")
    press(Keys.ENTER)
    browser.wait_for("Nothing is saved yet")
    tab_to("button.primary")
    press(Keys.ENTER)
    browser.wait_for("5 of 5 processes in ")
    values = server.get("/").json()["values"]
    assert (values["SITENAME"], values["CLOSED"]) == ("By keyboard", True)


def test_a_reader_and_a_stranger_see_what_they_may(browser: Browser) -> None:
    browser.become("reader")
    browser.open()
    assert "you have no permission to change settings" in browser.text
    assert not browser.driver.find_elements(By.CSS_SELECTOR, "main form [name=SITENAME]")
    browser.become("nobody")
    browser.open()
    assert "Forbidden" in browser.text
    assert browser.violations() == []
