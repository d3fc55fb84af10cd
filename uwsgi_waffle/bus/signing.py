"""Signatures of what hosts tell each other through Redis, by the key in the namespace's row.

Only a process that can read the database can make one. So hosts of two databases on one Redis are
never taken for each other's, and whoever can merely write to Redis cannot pass for a host.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

__all__ = ["is_signed", "sign"]


def sign(keys: Sequence[str], text: str) -> str:
    """Return the signatures of a text, one by each key, separated by commas.

    While keys are being rotated there are two, so that a host that has one of them accepts it.
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
    return hmac.new(key.encode(), text.encode("utf-8", "replace"), hashlib.sha256).hexdigest()
