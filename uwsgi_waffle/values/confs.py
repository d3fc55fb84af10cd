"""Settings declared as a dict: ``WAFFLE_CONFS``, in the style of Flask-WaffleConf."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal

import pydantic
from pydantic import Field
from pydantic.fields import FieldInfo

from uwsgi_waffle.errors import ConfigError

from .settings import WaffleSettings, check_names, one_line

__all__ = ["model_from_confs"]

_OWN_KEYS = frozenset({"desc", "default", "type", "choices", "secret"})


def model_from_confs(confs: Mapping[str, Mapping[str, Any]]) -> type[WaffleSettings]:
    """Return the model that ``WAFFLE_CONFS`` describes.

    :raises ConfigError: an entry cannot work; names the setting
    """
    fields: dict[str, Any] = {name: _field(name, conf) for name, conf in confs.items()}
    check_names(fields)
    try:
        return pydantic.create_model("Settings", __base__=WaffleSettings, **fields)
    except Exception as error:
        # pydantic raises several types: RuntimeError for a constraint that does not fit the type,
        # SchemaError for a malformed pattern.
        message = f"WAFFLE_CONFS cannot be made into settings: {one_line(error)}"
        raise ConfigError(message, key="WAFFLE_CONFS") from error


def _field(name: str, conf: Mapping[str, Any]) -> tuple[Any, FieldInfo]:
    """Return one entry of ``WAFFLE_CONFS`` as a pydantic field.

    :raises ConfigError: the entry cannot work
    """
    if not isinstance(conf, Mapping):
        message = f"WAFFLE_CONFS: {name} must be a dict with a 'default', not {conf!r}."
        raise ConfigError(message, key=name, value=conf)
    constraints = {key: value for key, value in conf.items() if key not in _OWN_KEYS}
    legal = _field_parameters()
    for key in constraints:
        if key not in legal:
            message = (
                f"WAFFLE_CONFS: {name} has an unknown entry {key!r}. Known: "
                f"{', '.join(sorted(_OWN_KEYS))}, and pydantic's: {', '.join(sorted(legal))}."
            )
            raise ConfigError(message, key=name, value=key)
    if "default" not in conf and "default_factory" not in conf:
        message = f"Setting {name} has no default. Give it one: it is served until changed."
        raise ConfigError(message, key=name)
    arguments = {"description": conf.get("desc"), **constraints}
    if "default" in conf:
        arguments["default"] = conf["default"]
    if conf.get("secret"):
        arguments["json_schema_extra"] = {"secret": True}
    try:
        return _annotation(name, conf), Field(**arguments)
    except TypeError as error:  # choices that cannot be listed, or entries that exclude each other
        message = f"WAFFLE_CONFS: {name} cannot be made into a setting: {one_line(error)}."
        raise ConfigError(message, key=name) from error


@cache
def _field_parameters() -> frozenset[str]:
    """Return the parameters of pydantic's ``Field``, so that a misspelt one is an error."""
    return frozenset(inspect.signature(Field).parameters) - {
        "default",
        "extra",
        "json_schema_extra",
    }


def _annotation(name: str, conf: Mapping[str, Any]) -> Any:
    """Return the type of an entry: given, made of its choices, or that of its default.

    :raises ConfigError: the type is not known
    """
    if "choices" in conf:
        if isinstance(conf["choices"], str):
            message = f"WAFFLE_CONFS: the choices of {name} are a text. Give a list of them."
            raise ConfigError(message, key=name, value=conf["choices"])
        choices = tuple(conf["choices"])
        if not choices:
            message = f"WAFFLE_CONFS: {name} has no choices. Name some, or leave 'choices' out."
            raise ConfigError(message, key=name, value=choices)
        return Literal[choices]
    if "type" in conf:
        return conf["type"]
    default = conf.get("default")
    if default is None:
        source = "None" if "default" in conf else "a 'default_factory'"
        message = (
            f"WAFFLE_CONFS: {name} has no type, and {source} does not show it. Add a 'type', such "
            "as str | None."
        )
        raise ConfigError(message, key=name)
    return type(default)
