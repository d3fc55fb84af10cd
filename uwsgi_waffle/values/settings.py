"""What applications declare: the base class of settings, their names, and which are secret."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Literal, NewType, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict
from pydantic.fields import FieldInfo
from typing_extensions import TypeAliasType, get_type_hints, is_typeddict

from uwsgi_waffle.errors import ConfigError

from .canonical import SECRET_TYPES

__all__ = [
    "MASK",
    "WaffleSettings",
    "check_model",
    "check_names",
    "one_line",
    "refuse_store",
    "secret_names",
]

#: What stands for a secret wherever one would be shown.
MASK = "********"

_NAME = re.compile(r"[A-Z][A-Z0-9_]*")
_MAX_NAME_LENGTH = 150


class WaffleSettings(BaseModel):
    """Base class of declared settings: a frozen pydantic model with upper-case fields.

    ::

        class Settings(WaffleSettings):
            SITENAME: str = Field("Waffle", description="Name shown in the header")
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        hide_input_in_errors=True,
        populate_by_name=True,  # a setting is stored by its name, whatever alias it has
    )

    def __repr_args__(self) -> Any:
        """Mask secrets, so that no log line shows one."""
        try:
            secrets = secret_names(type(self))
        except ConfigError:  # a class that no application can use; its repr must not fail
            secrets = frozenset(type(self).model_fields)
        for name, value in super().__repr_args__():
            yield name, MASK if name in secrets else value


def secret_names(model: type[BaseModel]) -> frozenset[str]:
    """Return the names of the secrets: by type, or by ``json_schema_extra={"secret": True}``.

    :raises ConfigError: it cannot be known of a setting; names the setting
    """
    found = set()
    for name, field in model.model_fields.items():
        try:
            if _holds_secret(field):
                found.add(name)
        except Exception as error:
            message = (
                f"Setting {name}: whether its type holds a secret cannot be known "
                f"({one_line(error)}). Give it a type made of plain types and models, or declare "
                'it with json_schema_extra={"secret": True}.'
            )
            raise ConfigError(message, key=name) from error
    return frozenset(found)


_STORE = (
    "the store that Flask-WaffleConf needs: leave it out, as in WaffleConf(app) and "
    "waffle.init_app(app)."
)


def check_model(model: object) -> None:
    """Refuse what is not a declaration, and one whose settings could be changed in place.

    :raises ConfigError: it is one of these
    """
    if not (isinstance(model, type) and issubclass(model, WaffleSettings)):
        message = (
            f"Settings are declared as a subclass of WaffleSettings, which {model!r} is not. If it "
            f"is {_STORE}"
        )
        raise ConfigError(message, value=model)
    if not model.model_config.get("frozen"):
        message = f"{model.__name__} is not frozen. Leave `frozen` out of its model_config."
        raise ConfigError(message, value=model)


def refuse_store(store: object) -> None:
    """Refuse the second argument of Flask-WaffleConf's ``init_app``.

    :raises ConfigError: there is one
    """
    if store is not None:
        message = f"{store!r} is not used, as the tables have a schema of their own. It is {_STORE}"
        raise ConfigError(message, value=store)


def check_names(names: Iterable[str]) -> None:
    """Refuse names that cannot be settings.

    :raises ConfigError: names the first
    """
    for name in names:
        if not _NAME.fullmatch(str(name)):
            fix = f" Call it {str(name).upper()}." if _NAME.fullmatch(str(name).upper()) else ""
            message = (
                f"Setting {name!r}: a name is upper case letters, digits and underscores.{fix}"
            )
            raise ConfigError(message, key=str(name))
        if name.startswith("WAFFLE_"):
            message = f"Setting {name}: names that begin with WAFFLE_ are configuration keys."
            raise ConfigError(message, key=name)
        if len(name) > _MAX_NAME_LENGTH:
            message = f"Setting {name}: a name has at most {_MAX_NAME_LENGTH} characters."
            raise ConfigError(message, key=name)


def one_line(error: Exception) -> str:
    """Return the text of an error in one line."""
    return " ".join(str(error).split())


# -- secrets ----------------------------------------------------------------------------------


def _holds_secret(field: FieldInfo) -> bool:
    """Return whether a field is declared secret, or holds a secret anywhere in its type.

    :raises Exception: that cannot be known
    """
    left: list[Any] = [field]
    seen: dict[int, Any] = {}
    while left:
        part = left.pop()
        if id(part) in seen:  # a model that refers to itself
            continue
        seen[id(part)] = part
        if isinstance(part, FieldInfo) and _is_declared_secret(part):
            return True
        if get_origin(part) is None and isinstance(part, type) and issubclass(part, SECRET_TYPES):
            return True
        left += _parts(part)
    return False


def _is_declared_secret(field: FieldInfo) -> bool:
    """Return whether ``json_schema_extra`` declares a field secret."""
    extra = field.json_schema_extra
    if callable(extra):
        schema: dict[str, Any] = {}
        extra(schema)
        return bool(schema.get("secret"))
    return bool(extra and extra.get("secret"))


def _parts(part: Any) -> Iterable[Any]:
    """Return the types that a part of an annotation is made of.

    :raises TypeError: that cannot be known
    """
    origin = get_origin(part)
    if isinstance(part, FieldInfo):
        return [part.annotation, *_fields_in(part.metadata)]
    if origin is Annotated:
        kind, *metadata = get_args(part)
        return [kind, *_fields_in(metadata)]
    if origin is Literal or part in (None, Any, ...):
        return ()
    if origin is not None:
        is_kind = isinstance(origin, type | TypeAliasType)
        return [*([origin] if is_kind else []), *get_args(part)]
    return _parts_of_name(part)


def _fields_in(metadata: Iterable[Any]) -> list[Any]:
    return [item for item in metadata if isinstance(item, FieldInfo)]


def _parts_of_name(part: Any) -> Iterable[Any]:
    """Return what a type without arguments stands for.

    :raises TypeError: that cannot be known
    """
    if isinstance(part, list):  # the arguments of a callable
        return part
    if isinstance(part, TypeAliasType):
        return [part.__value__]
    if isinstance(part, NewType):
        return [part.__supertype__]
    if isinstance(part, TypeVar):
        return [part.__bound__, *part.__constraints__]
    if isinstance(part, type):
        return _parts_of_class(part)
    message = f"{part!r} is not a type"
    raise TypeError(message)


def _parts_of_class(kind: type) -> Iterable[Any]:
    """Return the types of what the objects of a class hold."""
    if issubclass(kind, BaseModel):
        kind.model_rebuild(raise_errors=False)
        return kind.model_fields.values()
    if dataclasses.is_dataclass(kind) or is_typeddict(kind) or hasattr(kind, "_fields"):
        declared = getattr(kind, "__pydantic_fields__", {})
        return [*declared.values(), *get_type_hints(kind, include_extras=True).values()]
    return ()
