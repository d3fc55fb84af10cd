"""Signatures of announcements and reports on Redis, by the key in the namespace's row.

Only a process that can read the database can sign. So hosts of two databases on one Redis do not
count each other, and a program that can only write to Redis cannot pose as a host.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence

__all__ = ["is_signed", "sign"]


def sign(keys: Sequence[str], text: str) -> str:
    """Return the signatures of a text, one by each key, separated by commas.

    While keys are rotated there are two, so that a host that has only one of them accepts it.
    """
    return ",".join(_digest(key, text) for key in keys)


def is_signed(keys: Sequence[str], text: str, signatures: str) -> bool:
    """Return whether one of the signatures is by one of the keys."""
    given = signatures.split(",", 2)[:2]
    made = [_digest(key, text) for key in keys]
    return any(
        hmac.compare_digest(one, other) for one in made for other in given if other.isascii()
    )


def _digest(key: str, text: str) -> str:
    return hmac.digest(key.encode(), text.encode("utf-8", "replace"), "sha256").hex()
