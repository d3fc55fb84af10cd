"""Answers as plain JSON values: one form, for the command line and for the JSON interface."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pydantic_core import to_json, to_jsonable_python

from uwsgi_waffle.values.canonical import plain_json

if TYPE_CHECKING:
    from uwsgi_waffle.bus.fleet import Fleet, HostStatus
    from uwsgi_waffle.sql.history import Change

__all__ = ["change_json", "flat", "host_json", "json_text", "plain"]


def plain(value: object, *, reveal: bool = False) -> Any:
    """Return a value as JSON has it, or as a text where JSON has no form for it.

    :param reveal: show what pydantic's secret types hide
    """
    try:
        return plain_json(value, reveal=reveal)
    except (ValueError, TypeError):
        return to_jsonable_python(value, fallback=str)


def json_text(value: object, *, indent: int | None = None) -> str:
    """Return the JSON text of plain values, and of dataclasses; NaN and the infinities are null."""
    return to_json(value, indent=indent, inf_nan_mode="null", fallback=str).decode()


def change_json(change: Change) -> dict[str, Any]:
    """Return a line of the history by name."""
    return {
        "revision": change.revision,
        "name": change.name,
        "old": plain(change.old),
        "new": plain(change.new),
        "is_default": change.is_default,
        "actor": change.actor,
        "comment": change.comment,
        "source": change.source,
        "at": change.at.isoformat(),
    }


def host_json(fleet: Fleet, host: HostStatus) -> dict[str, Any]:
    """Return a host by name, without its processes."""
    known = flat(host)
    del known["exceptions"], known["processes"]
    return {**known, "label": fleet.label(host)}


def flat(found: Any) -> dict[str, Any]:
    """Return a frozen value by name, with the fields of its position in the position's place."""
    fields = asdict(found)
    return {**fields.pop("position"), **fields}
