"""What the pages and the JSON interface show of processes that do not serve a revision whole."""

from __future__ import annotations

from typing import Any

import pytest

from tests.admin.conftest import MakeVisitor
from tests.admin.visitor import Visitor
from tests.bus.conftest import host_at, process_at
from tests.conftest import state_of
from tests.support import RedisServer
from uwsgi_waffle.values.snapshot import RefusedValue

REASON = "Input should be less than or equal to 0.1"
FAULT = "its processes share no memory"


@pytest.fixture
def visitor(make_visitor: MakeVisitor, redis_server: RedisServer) -> Visitor:
    """Visit an application of which another host refuses a value of revision 1."""
    visitor = make_visitor(WAFFLE_MULTIPROC=True, WAFFLE_REDIS_URL=redis_server.url)
    visitor.waffle.update({"RATE": 0.75})
    report(visitor, RefusedValue("RATE", "last good value", REASON))
    return visitor


def report(visitor: Visitor, refused: RefusedValue) -> None:
    """Report a host with a process that refuses a value."""
    state = state_of(visitor.app)
    position = state.host.position
    refusing = (process_at(position, 77, refused_count=1, refused=refused),)
    known: dict[str, Any] = {"served": 1, "exceptions": refusing, "processes": refusing}
    state.reports.put(host_at(position, name="web<1>", following=2, fault=FAULT, **known))


PATHS = ("/revision/1", "/status")


@pytest.mark.parametrize("path", PATHS)
def test_pages_name_refusals_and_the_faults_of_hosts(visitor: Visitor, path: str) -> None:
    page = visitor.get(path)
    assert f"pid 77 on web<1> refuses RATE ({REASON}); it serves the last good value" in page.text
    assert f"host web<1>: {FAULT}" in page.text
    assert "<1>" not in page.html
    assert 'class="fleet complete"' not in page.html


def test_json_names_refusals_and_the_faults_of_hosts(visitor: Visitor) -> None:
    answer = visitor.api("GET", "/status").json
    assert answer is not None
    assert answer["fleet"]["refused"] == [
        {
            "host": "web<1>",
            "pid": 77,
            "name": "RATE",
            "reason": REASON,
            "serving": "last good value",
        }
    ]
    assert answer["fleet"]["is_complete"] is False
    assert [row["state"] for row in answer["fleet"]["processes"] if row["pid"] == 77] == ["refused"]
    assert FAULT in {host["fault"] for host in answer["hosts"]}
    rows = visitor.get("/revision/1/processes")
    assert f"refuses RATE ({REASON})" in rows.html


@pytest.mark.parametrize("name", ["RATE", ""])
def test_a_refusal_shows_nothing_of_a_setting_that_may_not_be_seen(
    visitor: Visitor, name: str
) -> None:
    report(visitor, RefusedValue(name, "last good value", REASON))
    partial = visitor.also("partial")
    bodies: list[Any] = [partial.get(path).html for path in (*PATHS, "/revision/1/processes")]
    bodies.append(partial.api("GET", "/status").get_data(as_text=True))
    for body in bodies:
        assert "pid 77 on" in body
        assert "you have no permission to see" in body
        assert "RATE" not in body
        assert REASON not in body
