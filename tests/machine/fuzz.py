"""A million damaged inputs for each reader of bytes and each interface, in minutes to an hour.

    python -m tests.machine.fuzz [--inputs 1000000] [--seed 1] [target...]

Each input is a good one with a few parts changed. Hypothesis (``test_fuzz.py`` of each room) makes
up inputs that are stranger, and shrinks what fails, but makes hundreds in the time of a million
here. A target says what must hold; the exit status is 1 if it did not, an input took too long, or
anything but the documented errors was raised.
"""

from __future__ import annotations

import argparse
import base64
import json
import logging
import os
import pickle
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

from tests.bus.conftest import KEY, LINEAGE, OTHER_KEY, POSITION, host_at, process_at, refusing
from tests.bus.test_fuzz import show
from tests.host.states import record
from tests.host.test_fuzz import PARTS, look
from tests.machine import fuzz_requests
from tests.machine.damage import changed, damaged, text_of
from tests.sql.test_fuzz import PLAIN
from tests.values.test_fuzz import CIPHER, DECLARATION, GOOD, LAST_GOOD
from uwsgi_waffle.bus.announcements import Announcement
from uwsgi_waffle.bus.reports import decode_host, decode_position, encode_host
from uwsgi_waffle.bus.signing import sign
from uwsgi_waffle.host.records import HostSnapshot
from uwsgi_waffle.sql.legacy import RefusedPickle, unpickle
from uwsgi_waffle.values.position import Position
from uwsgi_waffle.values.snapshot import Delta, Record, build

__all__ = ["TARGETS", "Result", "fuzz", "main"]

#: An input that takes longer hangs, on a machine however busy.
HANG_SECONDS = 10
#: Most defects that are printed of a target.
MOST_SHOWN = 5

#: Takes an input and raises AssertionError where what must hold does not.
Check = Callable[[random.Random], None]


# -- targets --------------------------------------------------------------------------------------


@contextmanager
def snapshot_bytes() -> Iterator[Check]:
    """Any bytes in the host snapshot leave the record whole, or none; nothing fails."""
    memory = Path("/dev/shm")  # noqa: S108  the directory made in it is private
    directory = tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None)
    good = record(7, {"A": "1", "B": '"two"'})
    with directory as made:
        path = Path(made) / "snapshot"
        host = HostSnapshot(path)
        host.publish(good)
        content = {
            start: host.words.cast("B")[start : start + size].tobytes() for start, size in PARTS
        }

        def check(chosen: random.Random) -> None:
            nonlocal host
            data = host.words.cast("B")
            for start, before in content.items():
                data[start : start + len(before)] = before
            for _ in range(chosen.randint(1, 6)):
                start, size = chosen.choice(PARTS)
                at = start + chosen.randrange(size - 8)
                new = chosen.choice(
                    (bytes(8), b"\xff" * 8, chosen.randbytes(8), chosen.randbytes(1))
                )
                data[at : at + len(new)] = new
            reader = HostSnapshot(path) if chosen.random() < 0.01 else host  # which maps anew
            found = reader.read()
            assert found is None or found[1].rows == good.rows or found[1].position != good.position
            if reader is not host or chosen.random() < 0.1:  # which takes ten times as long
                look(reader)
            if not host.is_shared or reader is not host:
                path.unlink(missing_ok=True)
                host = HostSnapshot(path)
                host.publish(good)
                fresh = host.words.cast("B")
                for start, before in content.items():
                    content[start] = fresh[start : start + len(before)].tobytes()

        yield check


@contextmanager
def messages() -> Iterator[Check]:
    """A damaged message is ignored, or is not signed; a signed odd one is applied or not."""
    delta = Delta(replace(POSITION, revision=6), POSITION, {"A": "1", "B": None})
    plain = (Announcement("default", POSITION), Announcement("default", POSITION, delta))
    encoded = [announcement.encode([KEY]).encode() for announcement in plain]
    before = Record(delta.before, {"A": "0"}, (KEY,))

    def check(chosen: random.Random) -> None:
        if chosen.random() < 0.5:
            decoded = Announcement.decode(damaged(chosen, chosen.choice(encoded)))
            assert (
                decoded is None
                or decoded[0] in plain
                or not decoded[0].is_signed([KEY], decoded[1])
            )
            return
        fields = changed(chosen, json.loads(chosen.choice(encoded)))
        if isinstance(fields, list) and len(fields) > 1:
            fields[-1] = sign([chosen.choice((KEY, OTHER_KEY))], json.dumps(fields[:-1]))
        decoded = Announcement.decode(json.dumps(fields))
        if decoded is not None and decoded[0].is_signed([KEY], decoded[1]):
            found = decoded[0]
            assert isinstance(found.position, Position)
            assert 0 <= found.position.revision < 2**63
            after = None if found.delta is None else found.delta.apply(before)
            assert after is None or all(isinstance(text, str) for text in after.rows.values())

    yield check


@contextmanager
def reports() -> Iterator[Check]:
    """A damaged report is ignored; a signed odd one is ignored or can be shown."""
    exceptions = process_at(), refusing()
    host = host_at(served=1, exceptions=exceptions, processes=exceptions)
    good = encode_host(host, 1000.0)
    sealed = f"{sign([KEY], good)} {good}".encode()
    position = json.dumps([LINEAGE, 7, "0123456789abcdef"])

    def check(chosen: random.Random) -> None:
        if chosen.random() < 0.4:
            entry = damaged(chosen, sealed)
            assert entry == sealed or decode_host([KEY], entry, 1000.0) is None
            return
        if chosen.random() < 0.2:
            text = text_of(chosen, position)
            found = decode_position([KEY], f"{sign([KEY], text)} {text}", LINEAGE)
            assert found.lineage in ("", LINEAGE)
            assert 0 <= found.revision < 2**63
            return
        text = text_of(chosen, good)
        decoded = decode_host([KEY], f"{sign([KEY], text)} {text}".encode(), 1000.0)
        if decoded is not None:
            show(decoded)

    yield check


@contextmanager
def rows() -> Iterator[Check]:
    """Any texts in SQL are served as declared, or the last good value stays."""
    texts = {
        name: DECLARATION.to_json(LAST_GOOD.settings, name) or "null" for name in DECLARATION.names
    }
    names = [*texts, "NO_SUCH", "name", ""]

    def check(chosen: random.Random) -> None:
        stored = dict(GOOD)
        for name in chosen.sample(names, chosen.randint(1, 4)):
            stored[name] = text_of(chosen, texts.get(name, '"x"'))
        last_good = LAST_GOOD if chosen.random() < 0.5 else None
        snapshot = build(DECLARATION, CIPHER, record(2, stored), last_good)
        served = snapshot.settings
        assert DECLARATION.validate(served, {}) == served
        fallback = LAST_GOOD.settings if last_good else DECLARATION.defaults
        refused = {value.name for value in snapshot.refused}
        for name in DECLARATION.names:
            if name in refused or "" in refused:
                assert getattr(served, name) == getattr(fallback, name)
        assert "swordfish" not in "".join(map(str, snapshot.refused))

    yield check


@contextmanager
def pickles() -> Iterator[Check]:
    """Any bytes in a table of Flask-WaffleConf are a plain value, or refused."""
    values: Sequence[object] = (
        *(None, True, 7, 2**70, 1.5, "text", b"bytes", [1, "a"], (1, 2), {"a": [1]}, {1, 2}),
        {"deep": [({"x": frozenset({3})}, [None] * 5)], "again": ["s" * 300]},
    )
    good = [pickle.dumps(value, protocol) for value in values for protocol in range(6)]

    def check(chosen: random.Random) -> None:
        data = damaged(chosen, chosen.choice(good))
        if chosen.random() < 0.1:
            data += damaged(chosen, chosen.choice(good))
        with suppress(RefusedPickle):
            assert type(unpickle(base64.b64encode(data).decode())) in PLAIN

    yield check


TARGETS: Mapping[str, Callable[[], Any]] = {
    "snapshot bytes": snapshot_bytes,
    "messages": messages,
    "reports": reports,
    "rows": rows,
    "pickles": pickles,
    "bodies": fuzz_requests.bodies,
    "forms": fuzz_requests.forms,
    "arguments": fuzz_requests.arguments,
}


# -- running --------------------------------------------------------------------------------------


@dataclass
class Result:
    """What a target did.

    :ivar inputs: how many inputs it took
    :ivar seconds: how long all of them took
    :ivar longest_seconds: how long the longest of them took
    :ivar defects: what must hold and did not, with the number of the input
    """

    inputs: int = 0
    seconds: float = 0.0
    longest_seconds: float = 0.0
    defects: list[str] = field(default_factory=list)


def fuzz(target: str, inputs: int, seed: int) -> Result:
    """Give a target so many inputs; input *n* of a seed is always the same."""
    result = Result()
    now = time.monotonic
    with ExitStack() as stack:
        check: Check = stack.enter_context(TARGETS[target]())
        stack.callback(signal.signal, signal.SIGALRM, signal.signal(signal.SIGALRM, _hangs))
        began = now()
        for number in range(inputs):
            chosen = random.Random(f"{seed} {number}")  # noqa: S311  inputs must be repeatable
            started = now()
            try:
                signal.alarm(HANG_SECONDS)
                check(chosen)
            except Exception:  # noqa: BLE001  each is a defect, and the next input is as good
                result.defects.append(f"input {number}:\n{traceback.format_exc()}")
            finally:
                signal.alarm(0)
            result.longest_seconds = max(result.longest_seconds, now() - started)
        result.inputs, result.seconds = inputs, now() - began
    return result


def _hangs(_number: int, _frame: FrameType | None) -> None:
    message = f"an input took {HANG_SECONDS} s"
    raise AssertionError(message)


def main() -> int:
    """Run, print a table, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("targets", nargs="*", choices=[*TARGETS, []], default=[])
    chosen = parser.parse_args()
    logging.disable()
    _say(f"{'':<18}{'inputs':>11}{'seconds':>9}{'a second':>10}{'longest':>10}{'defects':>9}")
    found = 0
    for target in chosen.targets or TARGETS:
        result = fuzz(target, chosen.inputs, chosen.seed)
        rate = result.inputs / max(result.seconds, 1e-9)
        _say(
            f"{target:<18}{result.inputs:>11,}{result.seconds:>9.0f}{rate:>10,.0f}"
            f"{result.longest_seconds:>8.2f} s{len(result.defects):>9}"
        )
        for defect in result.defects[:MOST_SHOWN]:
            _say(defect)
        found += len(result.defects)
    _say(f"load of the machine: {os.getloadavg()[1]:.0f}")
    return 1 if found else 0


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201  it is what the program is for


if __name__ == "__main__":
    sys.exit(main())
