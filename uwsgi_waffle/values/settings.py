"""Declarations: which settings there are, and the way between typed values and stored JSON.

A declaration is a frozen pydantic model. :class:`Declaration` wraps one, adds what the rest of the
package asks of it, and is the only place where values are validated and converted.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Annotated, Any, get_args

import pydantic
from pydantic import BaseModel, ConfigDict, SecretBytes, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from uwsgi_waffle.errors import ConfigError, InvalidSetting, UnknownSetting

__all__ = ["MASK", "MAX_VALUE_BYTES", "Declaration", "WaffleSettings", "check_names", "one_line"]

#: Largest JSON text of one value. Settings are read by every process on each change; anything
#: larger belongs in a file or a table of its own.
MAX_VALUE_BYTES = 262_144

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

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        hide_input_in_errors=True,
        populate_by_name=True,  # a setting is stored by its name, whatever alias it has
    )

    def __repr_args__(self) -> Any:
        """Mask secrets, so that no log line shows one."""
        secrets = secret_names(type(self))
        for name, value in super().__repr_args__():
            yield name, MASK if name in secrets else value


def secret_names(model: type[BaseModel]) -> frozenset[str]:
    """Return the names declared secret: by type, or by ``json_schema_extra={"secret": True}``."""
    return frozenset(name for name, field in model.model_fields.items() if _is_secret(field))


class Declaration:
    """The declared settings of one application.

    :ivar model: the pydantic model
    :ivar names: every declared name, in order of declaration
    :ivar secrets: the names of those that are never shown
    :ivar defaults: the model with every default
    :ivar default_json: name -> canonical JSON text of the default
    """

    def __init__(self, model: type[WaffleSettings]) -> None:
        """Check a declaration.

        :raises ConfigError: a name, a type or a default cannot work; names the setting
        """
        _check_model(model)
        self.model = model
        self.names: tuple[str, ...] = tuple(model.model_fields)
        self.secrets = secret_names(model)
        check_names(self.names)
        self.defaults = self._make_defaults()
        self.default_json: Mapping[str, str] = {}
        self.default_json = self._make_default_json()

    @cached_property
    def digest(self) -> str:
        """Eight hexadecimal digits that differ where two releases declare different settings."""
        fields = self.model.model_fields.items()
        text = "\n".join(f"{name}: {f.annotation!r} {f.metadata!r}" for name, f in fields)
        # Two processes have a validator's function at different addresses.
        return hashlib.sha256(re.sub(" at 0x[0-9a-f]+", "", text).encode()).hexdigest()[:8]

    def _make_defaults(self) -> WaffleSettings:
        """Return the model with every default.

        :raises ConfigError: a default is missing or invalid
        """
        for name, field in self.model.model_fields.items():
            if field.is_required():
                message = f"Setting {name} has no default. Give it one: it is served until changed."
                raise ConfigError(message, key=name)
        try:
            return self.model()
        except ValidationError as error:
            problem = InvalidSetting(self.describe(error))
            message = f"The defaults of the settings are not valid: {problem}"
            raise ConfigError(message, key=_first_name(error)) from None
        except Exception as error:  # noqa: BLE001  # raised again, without its cause perhaps
            # A constraint that does not go with its type, or a validator that fails by itself.
            message = f"The defaults of the settings cannot be validated: {self.raised(error)}"
            raise ConfigError(message) from self.cause(error)

    def _make_default_json(self) -> Mapping[str, str]:
        """Return the canonical JSON of every default.

        :raises ConfigError: a default cannot be stored, or is another one each time
        """
        texts, again = {}, self.model()
        for name in self.names:
            try:
                texts[name] = self.to_json(self.defaults, name)
            except InvalidSetting as error:
                message = f"The default of setting {name} cannot be stored: {error}"
                raise ConfigError(message, key=name, value=self._shown_default(name)) from error
            if self.to_json(again, name) != texts[name]:
                message = (
                    f"Setting {name} has another default each time it is asked for, so no two "
                    "processes would agree. Give it a fixed one."
                )
                raise ConfigError(message, key=name)
        try:
            self.round_trip(self.defaults, texts)
        except InvalidSetting as error:
            message = f"A default cannot be stored: {error}"
            raise ConfigError(message, key=str(error.errors[0]["loc"][0])) from error
        return texts

    def round_trip(self, settings: WaffleSettings, texts: Mapping[str, str]) -> WaffleSettings:
        """Return settings as they come back from their JSON texts.

        :raises InvalidSetting: names each setting that would come back as something else
        """
        try:
            back = self.decode(texts)
        except InvalidSetting as error:
            findings = [
                {**found, "msg": f"Its JSON form is refused: {found['msg']}"}
                for found in error.errors
            ]
            raise InvalidSetting(findings) from None
        changed = [name for name in self.names if getattr(back, name) != getattr(settings, name)]
        if changed:
            message = "It would come back from JSON as another value; give it a type that does not"
            raise InvalidSetting([_finding((name,), message) for name in changed])
        return back

    def _shown_default(self, name: str) -> object:
        return MASK if name in self.secrets else getattr(self.defaults, name)

    def check_known(self, names: Iterable[str]) -> None:
        """Refuse names that are not declared.

        :raises UnknownSetting: at least one is not
        """
        unknown = [str(name) for name in names if name not in self.model.model_fields]
        if unknown:
            raise UnknownSetting(unknown, self.names)

    def validate(self, current: WaffleSettings, changes: Mapping[str, object]) -> WaffleSettings:
        """Return the settings with some of them changed.

        :raises UnknownSetting: a name is not declared
        :raises InvalidSetting: a value, or the whole, is refused
        """
        self.check_known(changes)
        try:
            return self.model.model_validate({**dict(current), **changes})
        except ValidationError as error:
            raise InvalidSetting(self.describe(error)) from None
        except Exception as error:  # noqa: BLE001  # raised again, without its cause perhaps
            # A validator of the application that fails in a way pydantic does not expect.
            raise InvalidSetting([_finding((), self.raised(error))]) from self.cause(error)

    def to_json(self, settings: WaffleSettings, name: str) -> str:
        """Return the canonical JSON text of one value, which is what is stored.

        :raises InvalidSetting: JSON has no form for it, or it is too large
        """
        try:
            plain = plain_json(getattr(settings, name))
            text = json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)
        except (ValueError, TypeError, RecursionError) as error:
            raise InvalidSetting([_finding((name,), f"JSON has no form for it: {error}")]) from None
        if len(text) > MAX_VALUE_BYTES:
            message = f"The value is {len(text):,} bytes as JSON; the most is {MAX_VALUE_BYTES:,}"
            raise InvalidSetting([_finding((name,), message)])
        return text

    def from_json(self, texts: Mapping[str, str]) -> WaffleSettings:
        """Return the settings that some stored texts make, with defaults for the rest.

        The defaults are given as JSON too: pydantic validates those it fills in by the rules for
        JSON, by which a ``SecretStr`` is no string.

        :raises pydantic.ValidationError: a value, or the whole, is refused
        """
        whole = {**self.default_json, **texts}
        inner = ",".join(f"{json.dumps(name)}:{text}" for name, text in whole.items())
        return self.model.model_validate_json("{" + inner + "}")

    def decode(self, texts: Mapping[str, str]) -> WaffleSettings:
        """Return the settings that some stored texts make, for somebody who can be told why not.

        :raises InvalidSetting: a value, or the whole, is refused
        """
        try:
            return self.from_json(texts)
        except ValidationError as error:
            raise InvalidSetting(self.describe(error)) from None
        except Exception as error:  # noqa: BLE001  # raised again, without its cause perhaps
            raise InvalidSetting([_finding((), self.raised(error))]) from self.cause(error)

    def value_from_json(self, name: str, text: str) -> Any:
        """Return the value that a stored text makes, whatever goes with it in the whole.

        Where the setting, as it is declared today, does not take it, it comes back as plain JSON;
        where it is no JSON, as the text.
        """
        field = self.model.model_fields.get(name)
        try:
            if field is None:
                return json.loads(text)
            kind: Any = field.annotation
            for constraint in field.metadata:
                kind = Annotated[kind, constraint]
            return pydantic.TypeAdapter(kind).validate_json(text)
        except ValidationError:
            try:
                return json.loads(text)
            except ValueError:
                return text
        except ValueError:
            return text

    def raised(self, error: Exception) -> str:
        """Return what a validator failed with; only its type where it may repeat a secret."""
        if self.secrets:
            return f"a validator raised {type(error).__name__}"
        return f"a validator raised {type(error).__name__}: {one_line(error)}"

    def cause(self, error: Exception) -> Exception | None:
        """Return an error that may be shown as the cause of another; not where it tells secrets."""
        return None if self.secrets else error

    def describe(self, error: ValidationError) -> list[dict[str, Any]]:
        """Return pydantic's errors without what a secret setting was given."""
        found: list[dict[str, Any]] = []
        for item in error.errors(include_url=False):
            entry: dict[str, Any] = dict(item)
            if isinstance(entry.get("ctx", {}).get("error"), Exception):
                # An exception is no JSON; what it says stands in the message already.
                entry["ctx"] = {**entry["ctx"], "error": str(entry["ctx"]["error"])}
            name = entry["loc"][0] if entry["loc"] else None
            if name in self.secrets or (name is None and self.secrets):
                entry.pop("input", None)
                if name is not None:
                    entry.pop("ctx", None)
                    entry["msg"] = _without_value(entry)
            found.append(entry)
        return found


def _check_model(model: object) -> None:
    """Refuse what is no declaration, or one whose settings the application could change in place.

    :raises ConfigError: it is
    """
    if not (isinstance(model, type) and issubclass(model, WaffleSettings)):
        message = f"Settings are declared as a subclass of WaffleSettings, which {model!r} is not."
        raise ConfigError(message, value=model)
    if not model.model_config.get("frozen"):
        message = f"{model.__name__} is not frozen. Leave `frozen` out of its model_config."
        raise ConfigError(message, value=model)


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


def _is_secret(field: FieldInfo) -> bool:
    """Return whether a field is declared secret."""
    extra = field.json_schema_extra
    if isinstance(extra, dict) and extra.get("secret"):
        return True
    annotations = (field.annotation, *get_args(field.annotation))
    return any(annotation in (SecretStr, SecretBytes) for annotation in annotations)


def plain_json(value: object) -> Any:
    """Return a value as JSON has it: ``dict``, ``list``, ``str``, numbers, ``bool`` and ``None``.

    :raises ValueError: JSON has no form for it
    """
    return to_jsonable_python(_plain(value))


def _plain(value: object) -> object:
    """Return a value in the one form that equal values have, for pydantic to make JSON of.

    What pydantic's secret types hide, since what they dump is a row of asterisks; sets in an order
    that does not depend on how they came to be.
    """
    if isinstance(value, SecretStr | SecretBytes):
        return value.get_secret_value()
    if isinstance(value, set | frozenset):
        return sorted((to_jsonable_python(item) for item in value), key=json.dumps)
    return value


def _finding(loc: tuple[str, ...], message: str) -> dict[str, Any]:
    """Return a finding of our own in the form of pydantic's."""
    return {"type": "value_error", "loc": loc, "msg": message}


def one_line(error: Exception) -> str:
    """Return what an error says, in one line."""
    return " ".join(str(error).split())


def _first_name(error: ValidationError) -> str | None:
    loc = error.errors()[0]["loc"]
    return str(loc[0]) if loc else None


def _without_value(entry: Mapping[str, Any]) -> str:
    """Return a message about a secret; one written by the application may repeat the value."""
    if entry["type"] in ("value_error", "assertion_error"):
        return "The value was refused; the reason is hidden, as the setting is secret"
    return str(entry["msg"])
