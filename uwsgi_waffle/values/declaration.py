"""Declarations: which settings there are, and the way between typed values and stored JSON.

A declaration is a frozen pydantic model. :class:`Declaration` wraps one, adds what the rest of the
package asks of it, and is the only place where values are validated and converted.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cached_property
from typing import Annotated, Any

import pydantic
from pydantic import ValidationError
from pydantic_core import PydanticKnownError

from uwsgi_waffle.errors import ConfigError, InvalidSetting, UnknownSetting, invalid_setting

from .canonical import SCALARS, plain_json
from .fields import Fields
from .settings import WaffleSettings, check_model, check_names, one_line, secret_names

__all__ = ["MAX_VALUE_BYTES", "Declaration"]

#: Largest JSON text of one value. Settings are read by every process on each change; anything
#: larger belongs in a file or a table of its own.
MAX_VALUE_BYTES = 262_144

#: What an error of a secret shows in place of its message.
HIDDEN = "The value was refused; the reason is hidden, as the setting is secret"
#: What pydantic's own messages take from the value; everything else is from the declaration.
_FROM_VALUE = frozenset({"error", "encoding_error", "tag", "attribute"})
#: ``json.dumps`` would make an encoder for each value.
_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode
#: Shortest secret that is looked for in the message of a validator of all settings.
_SHORTEST_SECRET = 4


class Declaration:
    """The declared settings of one application.

    :ivar model: the pydantic model
    :ivar names: every declared name, in order of declaration
    :ivar secrets: the names of those that are never shown
    :ivar defaults: the model with every default
    :ivar default_json: name -> canonical JSON text of the default
    :ivar fields: validates settings one by one, where that is the same
    """

    def __init__(self, model: type[WaffleSettings]) -> None:
        """Check a declaration.

        :raises ConfigError: a name, a type or a default cannot work; names the setting
        """
        check_model(model)
        check_names(model.model_fields)
        self.model = model
        self.names: tuple[str, ...] = tuple(model.model_fields)
        model.model_rebuild(raise_errors=False)
        self.secrets = secret_names(model)
        self.defaults = self._make_defaults()
        # Name -> its start of a member of a JSON object, as every change puts all names together.
        self._member_starts = {name: f"{json.dumps(name)}:" for name in self.names}
        self._default_members: Mapping[str, str] = {}
        self.default_json: Mapping[str, str] = self._make_default_json()
        self._default_members = self._members(self.default_json)
        self.fields = Fields(model)

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
        except Exception as error:  # noqa: BLE001  # raised again, without its cause perhaps
            # Also a constraint that does not go with its type, or a validator that fails by itself.
            problem = self._refusal(error)
            message = f"The defaults of the settings are not valid: {problem}"
            raise ConfigError(message, key=_first_name(problem)) from self._cause(error)

    def _make_default_json(self) -> Mapping[str, str]:
        """Return the canonical JSON of every default.

        :raises ConfigError: a default cannot be stored, or is another one each time
        """
        again = self.model()
        try:
            texts = self.texts(self.defaults)
            self.round_trip(self.defaults, texts)
            for name, text in texts.items():
                self.check_size(name, text)
        except InvalidSetting as error:
            message = f"A default cannot be stored: {error}"
            raise ConfigError(message, key=_first_name(error)) from error
        for name in self.names:
            if self.to_json(again, name) != texts[name]:
                message = (
                    f"Setting {name} has another default each time it is asked for, so no two "
                    "processes would agree. Give it a fixed one."
                )
                raise ConfigError(message, key=name)
        return texts

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
            return self.model.model_validate({**self.values(current), **changes})
        except Exception as error:  # noqa: BLE001  # a validator may raise anything
            raise self._refusal(error) from self._cause(error)

    def changed(
        self, before: WaffleSettings, wanted: Mapping[str, object]
    ) -> tuple[WaffleSettings, dict[str, str]]:
        """Return the settings with some changed, as they come back from their JSON texts.

        :return: they, and the texts of those that may differ from *before*
        :raises InvalidSetting: a value, or the whole, is refused, or JSON has no form for it
        """
        if self.fields.are_worth_it(len(wanted)):
            with suppress(Exception):  # what a validator raises, the whole is refused for in words
                return self._changed_one_by_one(before, wanted)
        after = self.validate(before, wanted)
        texts = self.texts(after)
        return self.round_trip(after, texts), texts

    def _changed_one_by_one(
        self, before: WaffleSettings, wanted: Mapping[str, object]
    ) -> tuple[WaffleSettings, dict[str, str]]:
        """Do as :meth:`changed`; raises anything where a value is refused."""
        texts, back = {}, {}
        for name, given in wanted.items():
            validator = self.fields.validator(name)
            value = validator.validate_python(given)
            texts[name] = self._text(name, value)
            back[name] = validator.validate_json(texts[name])
            if back[name] != value:
                raise ValueError
        return self.fields.replace(before, back), texts

    def values(self, settings: WaffleSettings) -> dict[str, Any]:
        """Return name -> value; ``dict(settings)`` takes a hundred times as long."""
        found = vars(settings)
        if len(found) == len(self.names):
            return found.copy()
        return {name: found[name] for name in self.names}  # without cached properties

    # -- to JSON and back -----------------------------------------------------------------------

    def to_json(self, settings: WaffleSettings, name: str) -> str:
        """Return the canonical JSON text of one value, which is what is stored.

        :raises InvalidSetting: JSON has no form for it
        """
        return self._text(name, getattr(settings, name))

    def _text(self, name: str, value: object) -> str:
        is_secret = name in self.secrets
        try:
            plain = value if type(value) in SCALARS else plain_json(value, reveal=is_secret)
            text = _encode(plain)
        except (ValueError, TypeError, RecursionError) as error:
            reason = type(error).__name__ if is_secret else error
            message = f"JSON has no form for it: {reason}"
            raise invalid_setting(message, name) from None
        return text

    def check_size(self, name: str, text: str) -> None:
        """Refuse the text of a new value that is too large.

        One that is stored already is left alone, so that a smaller one can take its place.

        :raises InvalidSetting: it is
        """
        if len(text) > MAX_VALUE_BYTES:
            message = f"The value is {len(text):,} bytes as JSON; the most is {MAX_VALUE_BYTES:,}"
            raise invalid_setting(message, name)

    def texts(self, settings: WaffleSettings) -> dict[str, str]:
        """Return the canonical JSON text of each value; raises as :meth:`to_json`."""
        return {name: self.to_json(settings, name) for name in self.names}

    def from_json(self, texts: Mapping[str, str]) -> WaffleSettings:
        """Return the settings that some stored texts make, with defaults for the rest.

        The defaults are given as JSON too: pydantic validates those it fills in by the rules for
        JSON, which do not accept a ``SecretStr`` object.

        :raises pydantic.ValidationError: a value, or the whole, is refused
        """
        members = {**self._default_members, **self._members(texts)}
        return self.model.model_validate_json("{" + ",".join(members.values()) + "}")

    def _members(self, texts: Mapping[str, str]) -> dict[str, str]:
        starts = self._member_starts
        return {name: starts[name] + text for name, text in texts.items()}

    def decode(self, texts: Mapping[str, str]) -> WaffleSettings:
        """Return the settings that some stored texts make, with an error for people.

        :raises InvalidSetting: a value, or the whole, is refused
        """
        try:
            return self.from_json(texts)
        except Exception as error:  # noqa: BLE001  # a validator may raise anything
            raise self._refusal(error) from self._cause(error)

    def round_trip(self, settings: WaffleSettings, texts: Mapping[str, str]) -> WaffleSettings:
        """Return settings as they come back from their JSON texts.

        :raises InvalidSetting: names each setting that would come back as another value
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
            raise invalid_setting(message, *changed)
        return back

    def value_from_json(self, name: str, text: str) -> Any:
        """Return the value that a stored text makes, whatever goes with it in the whole.

        Where the setting, as it is declared today, does not accept it, it comes back as plain
        JSON; where it is not JSON, as the text.
        """
        field = self.model.model_fields.get(name)
        if field is not None:
            kind: Any = field.annotation
            for constraint in field.metadata:
                kind = Annotated[kind, constraint]
            with suppress(Exception):  # a validator may raise anything
                return pydantic.TypeAdapter(kind).validate_json(text)
        with suppress(ValueError, RecursionError):
            return json.loads(text)
        return text

    # -- errors ---------------------------------------------------------------------------------

    def describe(self, error: ValidationError) -> list[dict[str, Any]]:
        """Return pydantic's errors without anything that a secret setting was given."""
        return [self._without_secret(dict(item)) for item in error.errors(include_url=False)]

    def raised(self, error: Exception) -> str:
        """Return what a validator failed with; only its type where it may repeat a secret."""
        if self.secrets:
            return f"a validator raised {type(error).__name__}"
        return f"a validator raised {type(error).__name__}: {one_line(error)}"

    def _refusal(self, error: Exception) -> InvalidSetting:
        """Return what pydantic, or a validator in it, raised as an error of ours."""
        if isinstance(error, ValidationError):
            return InvalidSetting(self.describe(error))
        return invalid_setting(self.raised(error))

    def _cause(self, error: Exception) -> Exception | None:
        """Return an error as the cause of another; ``None`` where it may repeat a secret."""
        return None if self.secrets or isinstance(error, ValidationError) else error

    def _without_secret(self, entry: dict[str, Any]) -> dict[str, Any]:
        """Return one of pydantic's errors as people may see it."""
        context = entry.get("ctx", {})
        if isinstance(context.get("error"), Exception):
            # An exception is not JSON; its text stands in the message already.
            entry["ctx"] = {**context, "error": str(context["error"])}
        name = entry["loc"][0] if entry["loc"] else None
        if name in self.secrets:
            message = _own_message(entry["type"], context)
        elif name is None and self._repeats_secret(entry):
            message = HIDDEN
        else:
            if name is None and self.secrets:
                del entry["input"]  # all settings
            return entry
        # A place within the value may be named by a key of it.
        return {"type": entry["type"], "loc": entry["loc"][:1], "msg": message}

    def _repeats_secret(self, entry: Mapping[str, Any]) -> bool:
        """Return whether the message of a validator of all settings holds a secret's text."""
        given = entry["input"] if isinstance(entry["input"], Mapping) else {}
        for name in self.secrets & given.keys():
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


def _first_name(error: InvalidSetting) -> str | None:
    loc = error.errors[0]["loc"]
    return str(loc[0]) if loc else None
