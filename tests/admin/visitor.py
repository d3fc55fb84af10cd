"""A person without JavaScript: reads pages, fills forms in and sends them as a browser does."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

from flask import Flask
from werkzeug.datastructures import MultiDict
from werkzeug.test import TestResponse

from uwsgi_waffle import WaffleConf

HERE = "/waffle"


class _Forms(HTMLParser):
    """Collects what a browser would send of each form that is posted, and all text."""

    def __init__(self) -> None:
        super().__init__()
        self.forms: dict[str, list[tuple[str, str]]] = {}
        self.types: dict[str, str] = {}
        self.text = ""
        self._fields: list[tuple[str, str]] | None = None
        self._select = ""
        self._textarea: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {key: value or "" for key, value in attrs}
        if tag == "form":
            self._fields = []
            if given.get("method") == "post":
                self.forms[given["action"]] = self._fields
        elif self._fields is None:
            return
        elif tag == "input":
            self._input(given)
        elif tag == "select":
            self._select = given["name"]
        elif tag == "option" and "selected" in given and self._select:
            self._fields.append((self._select, given.get("value", "")))
        elif tag == "textarea":
            self._textarea = given["name"]
            self._fields.append((given["name"], ""))

    def _input(self, given: dict[str, str]) -> None:
        kind, name = given.get("type", "text"), given.get("name", "")
        self.types[name] = kind
        is_sent = "checked" in given or kind not in {"checkbox", "radio"}
        if name and is_sent and self._fields is not None:
            self._fields.append((name, given.get("value", "")))

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._fields = None
        elif tag == "textarea":
            self._textarea = None
        elif tag == "select":
            self._select = ""

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._textarea is not None and self._fields is not None:
            # A browser drops the first line break, and sends the others as CR LF.
            text = data.removeprefix("\n").replace("\n", "\r\n")
            self._fields[-1] = (self._textarea, text)


class Page:
    """A page that was received."""

    def __init__(self, answer: TestResponse) -> None:
        """Read it to its end."""
        self.status = answer.status_code
        self.headers = answer.headers
        self.html = answer.get_data(as_text=True)
        parsed = _Forms()
        parsed.feed(self.html)
        self.forms = parsed.forms
        self.types = parsed.types
        self.text = " ".join(parsed.text.split())

    def form(self, action: str) -> MultiDict[str, str]:
        """Return what the form of an action would send as it stands."""
        return MultiDict(self.forms[f"{HERE}{action}"])

    @property
    def location(self) -> str:
        """Where it sends the browser."""
        return self.headers.get("Location", "")


class Visitor:
    """A person with a session."""

    def __init__(self, app: Flask, waffle: WaffleConf[Any], name: str = "alice") -> None:
        """Visit an application under a name."""
        self.app = app
        self.waffle = waffle
        self.name = name
        self.client = app.test_client()

    def also(self, name: str) -> Visitor:
        """Return another visitor of the same application."""
        return Visitor(self.app, self.waffle, name)

    def get(self, path: str = "/") -> Page:
        """Open a page."""
        return Page(self.client.get(f"{HERE}{path}", headers={"X-User": self.name}))

    def post(self, path: str, form: MultiDict[str, str], /, **changes: str) -> Page:
        """Send a form with some of it filled in otherwise; ``a__b`` stands for ``a-b``."""
        filled = MultiDict(form)
        for name, text in changes.items():
            filled[name.replace("__", "-")] = text
        answer = self.client.post(f"{HERE}{path}", data=filled, headers={"X-User": self.name})
        return Page(answer)

    def review(self, page: Page | None = None, /, **changes: str) -> Page:
        """Fill the settings in, and ask for the review."""
        page = page or self.get()
        return self.post("/review", page.form("/review"), **changes)

    def save(self, review: Page, /, **changes: str) -> Page:
        """Save what is reviewed."""
        return self.post("/save", review.form("/save"), **changes)

    def change(self, **changes: str) -> Page:
        """Go all the way."""
        return self.save(self.review(None, **changes))

    def api(  # noqa: PLR0913  # each is one thing about the request
        self,
        method: str,
        path: str,
        json: object = None,
        *,
        revision: int | None = None,
        headers: dict[str, str] | None = None,
        fresh: bool = True,
    ) -> TestResponse:
        """Ask the JSON interface, as a client without cookies unless *fresh* is false."""
        client = self.app.test_client() if fresh else self.client
        sent = {"X-User": self.name, **(headers or {})}
        if revision is not None:
            sent["If-Match"] = f'"{revision}"'
        return client.open(f"{HERE}/api{path}", method=method, json=json, headers=sent)
