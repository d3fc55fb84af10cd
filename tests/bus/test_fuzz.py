"""Any bytes on Redis, signed or not: they are ignored, or what they say can be shown."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from tests.bus.conftest import KEY, LINEAGE, OTHER_KEY, POSITION, host_at, process_at, refusing
from tests.support.fuzzing import fuzzed, json_values
from uwsgi_waffle.bus.announcements import Announcement
from uwsgi_waffle.bus.fleet import Fleet, HostStatus
from uwsgi_waffle.bus.reports import decode_host, decode_position, encode_host
from uwsgi_waffle.bus.signing import is_signed, sign
from uwsgi_waffle.cli import _render
from uwsgi_waffle.ops.plain import json_text
from uwsgi_waffle.ops.status import ProcessStatus, Status

EXCEPTIONS = process_at(), refusing()
GOOD: dict[str, Any] = json.loads(
    encode_host(host_at(served=1, exceptions=EXCEPTIONS, processes=EXCEPTIONS), 1000.0)
)


def paths(value: object, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return where all parts of a JSON value are."""
    inner: Any = value.items() if isinstance(value, dict) else ()
    inner = enumerate(value) if isinstance(value, list) else inner
    return [path, *(found for key, item in inner for found in paths(item, (*path, key)))]


def changed(path: tuple[Any, ...], part: object) -> Any:
    """Return the good report with another value in one place."""
    if not path:
        return part
    copy = json.loads(json.dumps(GOOD))
    target = copy
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = part
    return copy


extremes = st.sampled_from([0, -1, 2**31, 2**63, 2**64, 10**30, 1e18, 1e300, -1e300, 0.5])
nearly_good = st.builds(changed, st.sampled_from(paths(GOOD)), json_values() | extremes)
texts = (
    (nearly_good | json_values()).map(json.dumps)
    | st.text(max_size=100)
    | st.tuples(st.integers(0, 3000), st.characters()).map(
        lambda cut: json.dumps(GOOD)[: cut[0]] + cut[1] + json.dumps(GOOD)[cut[0] + 1 :]
    )
)


def sealed(text: str, key: str = KEY) -> bytes:
    return f"{sign([key], text)} {text}".encode("utf-8", "surrogatepass")


@given(st.binary(max_size=200) | texts.map(lambda text: sealed(text, OTHER_KEY)) | texts)
@fuzzed(300)
def test_no_entry_that_is_not_signed_by_our_key_is_a_report(entry: object) -> None:
    assert decode_host([KEY], entry, 1000.0) is None
    assert not decode_position([KEY], entry, LINEAGE).exists


@given(texts)
@example(json.dumps(changed(("listener", "since"), 1e300)))
@example(json.dumps(changed(("processes", 0, "since"), 1e18)))
@example(json.dumps(changed(("reported_at",), 1e300)))
@example(json.dumps(changed(("position", "revision"), 10**30)))
@fuzzed(300)
def test_each_signed_entry_is_ignored_or_can_be_shown(text: str) -> None:
    """It is made by who can read the database, or by a release with a bug."""
    host = decode_host([KEY], sealed(text), 1000.0)
    if host is not None:
        show(host)


def show(host: HostStatus) -> None:
    """Show a host in each way that it is shown."""
    other = host_at(host_id="b" * 16)
    fleet = Fleet(POSITION, (host, other))
    assert isinstance(fleet.total, int)
    assert all(str(found) for found in (*fleet.missing, *fleet.refused))
    assert json_text(_render.fleet_json(fleet))
    process = ProcessStatus(POSITION, "thread")
    status = Status(POSITION, process, other, (other, host), ())
    assert list(_render.status(status, namespace="default", database="sqlite://"))
    assert json_text(_render.status_json(status))


positions = st.lists(json_values() | st.just(LINEAGE) | extremes, max_size=4)


@given(positions | st.tuples(st.just(LINEAGE), extremes, st.text(max_size=16)))
@example([LINEAGE])
@example([LINEAGE, "7", ""])
@example([LINEAGE, 2**63, ""])
@example([LINEAGE, 7.5, ""])
@example({})
@example(7)
@fuzzed(300)
def test_each_signed_position_is_ignored_or_one_of_the_lineage(content: object) -> None:
    found = decode_position([KEY], sealed(json.dumps(content)), LINEAGE)
    assert found.lineage in ("", LINEAGE)
    assert type(found.revision) is int
    assert 0 <= found.revision < 2**63
    assert type(found.stamp) is str


@given(st.lists(st.text(max_size=70), max_size=3), st.text(max_size=50), st.text(max_size=150))
@fuzzed(300)
def test_no_signature_that_was_not_made_is_accepted(
    keys: list[str], text: str, signatures: str
) -> None:
    assert not is_signed(keys, text, signatures)
    assert is_signed(keys, text, sign(keys[:1], text)) == bool(keys)


@given(json_values() | st.lists(json_values() | extremes, min_size=6, max_size=6))
@fuzzed(100)
def test_each_message_is_decoded_whole_or_not_at_all(content: object) -> None:
    decoded = Announcement.decode(json.dumps(content))
    assert decoded is None, "no made-up message begins as ours do"
