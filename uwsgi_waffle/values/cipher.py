"""Secrets at rest; the only module that imports ``cryptography``.

A sealed value is the text ``fernet:`` and a Fernet token. No JSON text begins like that, so a table
may hold sealed and open values side by side while keys are being introduced.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from uwsgi_waffle.errors import ConfigError, invalid_setting

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet

__all__ = ["SEALED_PREFIX", "Cipher", "Undecipherable"]

_KEY = "WAFFLE_ENCRYPTION_KEYS"
#: How a sealed value begins.
SEALED_PREFIX = "fernet:"


class Undecipherable(ValueError):
    """A sealed value that none of the keys opens."""


class Cipher:
    """Seals and opens the stored text of secret settings; without keys it seals nothing."""

    def __init__(self, keys: Sequence[str] = ()) -> None:
        """Take Fernet keys: the first seals, all of them open.

        :raises ConfigError: a key is malformed, or ``cryptography`` is not installed
        """
        self._fernet: MultiFernet | None = _multi_fernet(keys) if keys else None

    @property
    def seals(self) -> bool:
        """Whether there is a key to seal with."""
        return self._fernet is not None

    @staticmethod
    def is_sealed(stored: str) -> bool:
        """Return whether a stored value is encrypted."""
        return stored.startswith(SEALED_PREFIX)

    def seal(self, text: str) -> str:
        """Return the text as it is stored."""
        if self._fernet is None:
            return text
        return SEALED_PREFIX + self._fernet.encrypt(text.encode()).decode()

    def open(self, stored: str) -> str:
        """Return the text behind a stored value; an open one comes back as it is.

        :raises Undecipherable: none of the keys opens it
        """
        if not self.is_sealed(stored):
            return stored
        if self._fernet is None:
            message = f"the stored value is encrypted; set {_KEY} to the keys that open it"
            raise Undecipherable(message)
        from cryptography.fernet import InvalidToken

        try:
            return self._fernet.decrypt(stored[len(SEALED_PREFIX) :]).decode()
        except InvalidToken:
            message = f"none of the keys in {_KEY} opens the stored value"
            raise Undecipherable(message) from None

    def open_setting(self, name: str, stored: str) -> str:
        """Return the text behind a stored value of a setting.

        :raises InvalidSetting: none of the keys opens it
        """
        try:
            return self.open(stored)
        except Undecipherable as error:
            raise invalid_setting(str(error), name) from None


def _multi_fernet(keys: Sequence[str]) -> MultiFernet:
    """Return the keys as one cipher.

    :raises ConfigError: a key is malformed, or ``cryptography`` is not installed
    """
    try:
        from cryptography.fernet import Fernet, MultiFernet
    except ImportError as error:
        message = f"{_KEY} needs cryptography. Run `pip install uwsgi-waffle[encryption]`."
        raise ConfigError(message, key=_KEY) from error
    fernets = []
    for position, key in enumerate(keys, start=1):
        try:
            fernets.append(Fernet(key))
        except ValueError:
            message = (
                f"{_KEY}: key {position} of {len(keys)} is not a Fernet key. Make one with "
                "`cryptography.fernet.Fernet.generate_key()`."
            )
            # Without its cause, whose traceback shows the key.
            raise ConfigError(message, key=_KEY) from None
    return MultiFernet(fernets)
