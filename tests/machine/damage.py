"""Damage to a good input: bytes and JSON that are almost right."""

from __future__ import annotations

import json
import random
from typing import Any

__all__ = ["ODD", "changed", "damaged", "text_of"]

TOKENS = (
    *(b"null true false NaN Infinity 1e400 -0.0 -1 0 0.5 2e9 [ ] { } , : [[ {}".split()),
    *(b'"" "\\ud800" "\\u0000" \\ \x00 \xff\xfe \xed\xa0\x80'.split()),
    *(str(number).encode() for number in (2**31, 2**63, 2**64, 10**30)),
    b"9" * 400,
    b"[" * 400,
)
ODD: tuple[object, ...] = (
    None,
    True,
    -1,
    0,
    0.5,
    2**63,
    10**30,
    1e300,
    "",
    "\0",
    "x" * 300,
    [],
    {},
)


def damaged(chosen: random.Random, good: bytes) -> bytes:
    """Return bytes with one to four changes."""
    data = bytearray(good)
    for _ in range(chosen.randint(1, 4)):
        at = chosen.randrange(len(data) + 1)
        match chosen.randrange(7):
            case 0 if at < len(data):
                data[at] ^= 1 << chosen.randrange(8)
            case 1 if at < len(data):
                data[at] = chosen.randrange(256)
            case 2:
                data[at:at] = chosen.choice(TOKENS)
            case 3:
                token = chosen.choice(TOKENS)
                data[at : at + chosen.randint(1, 8)] = token
            case 4:
                del data[at : at + chosen.randint(1, 16)]
            case 5:
                end = min(len(data), at + chosen.randint(1, 64))
                data[at:at] = data[at:end] * chosen.randint(1, 3)
            case _:
                del data[at:]
    return bytes(data)


def changed(chosen: random.Random, value: Any) -> Any:
    """Return a JSON value with another value in one place, at any depth."""
    if isinstance(value, dict) and value and chosen.random() < 0.9:
        key = chosen.choice(list(value))
        if chosen.random() < 0.1:
            return {name: item for name, item in value.items() if name != key}
        return {**value, key: changed(chosen, value[key])}
    if isinstance(value, list) and value and chosen.random() < 0.9:
        at = chosen.randrange(len(value))
        return [*value[:at], changed(chosen, value[at]), *value[at + 1 :]]
    return chosen.choice(ODD)


def text_of(chosen: random.Random, good: str) -> str:
    """Return a damaged JSON text: half of them still are JSON."""
    if chosen.random() < 0.5:
        return json.dumps(changed(chosen, json.loads(good)))
    return damaged(chosen, good.encode()).decode("utf-8", "replace")
