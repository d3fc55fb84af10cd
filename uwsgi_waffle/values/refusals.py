"""Words for what a declaration refuses, without any part of a secret."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from pydantic import ValidationError
from pydantic_core import PydanticKnownError, from_json

from uwsgi_waffle.errors import InvalidSetting, invalid_setting

from .canonical import plain_json
from .settings import one_line

__all__ = ["Refusals", "first_name", "is_json"]

#: What an error of a secret shows in place of its message.
HIDDEN = "The value was refused; the reason is hidden, as the setting is secret"
#: What pydantic's own messages take from the value; everything else is from the declaration.
_FROM_VALUE = frozenset({"error", "encoding_error", "tag", "attribute"})
#: Shortest secret that is looked for in the message of a validator of all settings.
_SHORTEST_SECRET = 4


class Refusals:
    """Turns what pydantic, or a validator in it, raises into errors for people."""

    def __init__(self, secrets: frozenset[str]) -> None:
        """Hide what some settings are given.

        :param secrets: their names
        """
        self._secrets = secrets

    def describe(self, error: ValidationError) -> list[dict[str, Any]]:
        """Return pydantic's errors without anything that a secret setting was given."""
        return [self._without_secret(dict(item)) for item in error.errors(include_url=False)]

    def raised(self, error: Exception) -> str:
        """Return what a validator failed with; only its type where it may repeat a secret."""
        if self._secrets:
            return f"a validator raised {type(error).__name__}"
        return f"a validator raised {type(error).__name__}: {one_line(error)}"

    def refusal(self, error: Exception) -> InvalidSetting:
        """Return what pydantic, or a validator in it, raised as an error of ours."""
        if isinstance(error, ValidationError):
            return InvalidSetting(self.describe(error))
        return invalid_setting(self.raised(error))

    def cause(self, error: Exception) -> Exception | None:
        """Return an error as the cause of another; ``None`` where it may repeat a secret."""
        return None if self._secrets or isinstance(error, ValidationError) else error

    def _without_secret(self, entry: dict[str, Any]) -> dict[str, Any]:
        """Return one of pydantic's errors as people may see it."""
        context = entry.get("ctx", {})
        if isinstance(context.get("error"), Exception):
            # An exception is not JSON; its text stands in the message already.
            entry["ctx"] = {**context, "error": str(context["error"])}
        name = entry["loc"][0] if entry["loc"] else None
        if name in self._secrets:
            message = _own_message(entry["type"], context)
        elif name is None and self._repeats_secret(entry):
            message = HIDDEN
        else:
            if name is None and self._secrets:
                del entry["input"]  # all settings
            return entry
        # A place within the value may be named by a key of it.
        return {"type": entry["type"], "loc": entry["loc"][:1], "msg": message}

    def _repeats_secret(self, entry: Mapping[str, Any]) -> bool:
        """Return whether the message of a validator of all settings holds a secret's text."""
        given = entry["input"] if isinstance(entry["input"], Mapping) else {}
        for name in self._secrets & given.keys():
            with suppress(ValueError):
                text = str(plain_json(given[name]))
                if len(text) >= _SHORTEST_SECRET and text in entry["msg"]:
                    return True
        return False


def _own_message(kind: str, context: Mapping[str, Any]) -> str:
    """Return pydantic's own message for an error; another one may repeat the value."""
    if not _FROM_VALUE & context.keys():
        with suppress(KeyError, TypeError):
            return PydanticKnownError(kind, dict(context) or None).message()  # type: ignore[arg-type]
    return HIDDEN


def first_name(error: InvalidSetting) -> str | None:
    """Return the setting that the first finding is about, ``None`` for the whole."""
    loc = error.errors[0]["loc"]
    return str(loc[0]) if loc else None


def is_json(text: str) -> bool:
    """Return whether pydantic takes a text for JSON, which half of a surrogate pair is not."""
    try:
        from_json(text)
    except ValueError:
        return False
    return True
