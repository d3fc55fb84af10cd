"""From typed text, or the text of a file, to values of settings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import click
from pydantic_core import from_json

from uwsgi_waffle.errors import InvalidSetting
from uwsgi_waffle.values.declaration import Declaration
from uwsgi_waffle.values.settings import WaffleSettings

__all__ = ["differences", "from_json_texts", "from_readings", "parse_assignments", "readings"]


def parse_assignments(assignments: Sequence[str]) -> dict[str, str]:
    """Return NAME=VALUE arguments by name.

    :raises click.UsageError: one has another form, or a name comes twice
    """
    given: dict[str, str] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or not name:
            message = f"{assignment!r} is not of the form NAME=VALUE."
            raise click.UsageError(message)
        if name in given:
            message = f"{name} is given twice."
            raise click.UsageError(message)
        given[name] = text
    return given


def readings(text: str, *, text_first: bool = False) -> list[str]:
    """Return the JSON texts that something typed may stand for, the likelier first.

    ``5`` is a number, and ``["a"]`` a list; but a setting that accepts neither gets the text.
    """
    as_text = json.dumps(text)
    try:
        from_json(text, allow_inf_nan=False)
    except (ValueError, TypeError):  # the latter for bytes that are no text
        return [as_text]
    return [as_text, text] if text_first else [text, as_text]


def from_readings(
    declaration: Declaration, current: WaffleSettings, given: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """Return values by name, each by the first of its readings that the setting accepts.

    :raises UnknownSetting: a name is not declared
    :raises InvalidSetting: a value, or the whole, is refused
    """
    declaration.check_known(given)
    chosen = {
        name: next((text for text in texts if _accepts(declaration, current, name, text)), texts[0])
        for name, texts in given.items()
    }
    return from_json_texts(declaration, current, chosen)


def from_json_texts(
    declaration: Declaration, current: WaffleSettings, texts: Mapping[str, str]
) -> dict[str, Any]:
    """Return the values of JSON texts, by the rules for JSON.

    :raises UnknownSetting: a name is not declared
    :raises InvalidSetting: a value, or the whole, is refused
    """
    settings = declaration.with_json(current, texts)
    return {name: getattr(settings, name) for name in texts}


def _accepts(declaration: Declaration, current: WaffleSettings, name: str, text: str) -> bool:
    """Return whether a setting by itself accepts a JSON text."""
    try:
        from_json_texts(declaration, current, {name: text})
    except InvalidSetting as error:
        return not any(found["loc"][:1] == (name,) for found in error.errors)
    return True


def differences(
    declaration: Declaration, before: WaffleSettings, after: WaffleSettings
) -> dict[str, tuple[Any, Any]]:
    """Return name -> (old, new) of the settings that differ.

    :raises InvalidSetting: a new one is too large
    """
    found = {}
    for name in declaration.names:
        text = declaration.to_json(after, name)
        if text != declaration.to_json(before, name):
            declaration.check_size(name, text)
            found[name] = (getattr(before, name), getattr(after, name))
    return found
