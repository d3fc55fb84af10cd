"""Announcements that are believed, and messages that are not."""

from __future__ import annotations

import json
from dataclasses import replace

from tests.bus.conftest import KEY, LINEAGE, OTHER_KEY, OTHER_LINEAGE, POSITION
from tests.support import wait_until
from tests.support.waiting import SOON_SECONDS
from uwsgi_waffle.bus.announcements import Announcement
from uwsgi_waffle.bus.channel import Bus
from uwsgi_waffle.bus.subscription import Heard, Subscription
from uwsgi_waffle.values.position import Position
from uwsgi_waffle.values.snapshot import Delta

OURS = Announcement("default", POSITION)
FIELDS = ["waffle", "default", LINEAGE, 7, "0123456789abcdef"]
DELTA = Delta(Position(LINEAGE, 6, "0" * 16), POSITION, {"SIZE": "2", "NAME": None})
CHANGED = Announcement("default", POSITION, DELTA)
NOTHING = Heard([])


def heard_by(subscription: Subscription) -> Heard:
    """Return what is heard next."""

    def receive() -> Heard | None:
        heard = subscription.receive(0.1)
        return None if heard == NOTHING else heard

    heard = wait_until(receive, SOON_SECONDS, "a message is heard")
    assert heard is not None
    return heard


def check_round_trip(bus: Bus) -> None:
    """Announce a position, and hear it."""
    with bus.subscribe() as subscription:
        assert bus.publish(POSITION)
        assert heard_by(subscription) == Heard([OURS])
        assert subscription.receive(0) == NOTHING


def resigned(announcement: Announcement, signed: Announcement, key: str = KEY) -> str:
    """Return an announcement with the signature of another one."""
    *_, signature = json.loads(signed.encode([key]))
    *fields, _ = json.loads(announcement.encode([key]))
    return json.dumps([*fields, signature])


LATER = Announcement("default", Position(LINEAGE, 8, "0" * 15 + "1"))
ELSEWHERE = Announcement("default", Position(OTHER_LINEAGE, 7, "0" * 15 + "1"))

IGNORED: dict[str, str | bytes] = {
    "empty": b"",
    "not UTF-8": b"\xff\xfe\x00",
    "oversized": b"x" * 1_000_000,
    "oversized and signed": Announcement("default", Position("a" * 4000, 1, "")).encode([KEY]),
    "deep": b"[" * 100_000,
    "deep and short": b"[" * 1_900,
    "null": b"null",
    "no fields": b"[]",
    "of release 0.1.0": json.dumps({"namespace": "default", "lineage": LINEAGE, "revision": 7}),
    "revision is a text": json.dumps([*FIELDS[:3], "7", "", None, ""]),
    "revision is a boolean": json.dumps([*FIELDS[:3], True, "", None, ""]),
    "revision is a fraction": json.dumps([*FIELDS[:3], 7.5, "", None, ""]),
    "revision is not finite": '["waffle", "default", "aa", Infinity, "", null, ""]',
    "revision is negative": json.dumps([*FIELDS[:3], -1, "", None, ""]),
    "revision is huge": json.dumps([*FIELDS[:3], 2**63, "", None, ""]),
    "revision has 5000 digits": b'["waffle", "default", "aa", ' + b"9" * 5000 + b', "", null, ""]',
    "half of a surrogate pair": '["waffle", "default", "\\ud800", 7, "", null, "\\ud800"]',
    "another kind": json.dumps(["syrup", *FIELDS[1:], None, ""]),
    "unsigned": json.dumps([*FIELDS, None, ""]),
    "signed with another key": OURS.encode([OTHER_KEY]),
    "signature of another position": resigned(LATER, OURS),
    "changes of another state": resigned(OURS, CHANGED),
    "other changes": resigned(replace(CHANGED, delta=replace(DELTA, rows={"SIZE": "3"})), CHANGED),
    "changes are no texts": json.dumps([*FIELDS, [LINEAGE, 6, "", {"SIZE": 2}], ""]),
    "signature cut short": OURS.encode([KEY])[:-3] + '"]',
    "signature is not ASCII": json.dumps([*FIELDS, None, "ä" * 64]),
    "many signatures": json.dumps([*FIELDS, None, "," * 1000]),
    "of another database": ELSEWHERE.encode([OTHER_KEY]),
    "our lineage, by another database": resigned(OURS, ELSEWHERE, OTHER_KEY),
}
