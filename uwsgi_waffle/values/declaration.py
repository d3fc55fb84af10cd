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

from uwsgi_waffle.errors import ConfigError, InvalidSetting, UnknownSetting, invalid_setting

from .canonical import FIXED, SCALARS, plain_json
from .fields import Fields
from .refusals import Refusals, first_name, is_json
from .settings import WaffleSettings, check_model, check_names, secret_names

__all__ = ["MAX_VALUE_BYTES", "Declaration"]

#: Largest JSON text of one value. Settings are read by every process on each change; anything
#: larger belongs in a file or a table of its own.
MAX_VALUE_BYTES = 262_144

#: ``json.dumps`` would make an encoder for each value.
_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode


class Declaration:
    """The declared settings of one application.

    :ivar model: the pydantic model
    :ivar names: every declared name, in order of declaration
    :ivar secrets: the names of those that are never shown
    :ivar defaults: the model with every default
    :ivar default_json: name -> canonical JSON text of the default
    :ivar refusals: words for what is refused
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
        self.refusals = Refusals(self.secrets)
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
            made = self.model.model_validate({})
        except Exception as error:  # noqa: BLE001  # raised again, without its cause perhaps
            # Also a constraint that does not go with its type, or a validator that fails by itself.
            problem = self.refusals.refusal(error)
            message = f"The defaults of the settings are not valid: {problem}"
            raise ConfigError(message, key=first_name(problem)) from self.refusals.cause(error)
        try:
            return self._whole(made)
        except InvalidSetting as error:
            message = f"{self.model.__name__} cannot be used: {error}"
            raise ConfigError(message, value=self.model) from None

    def _make_default_json(self) -> Mapping[str, str]:
        """Return the canonical JSON of every default.

        :raises ConfigError: a default cannot be stored, or is another one each time
        """
        again = self.model()
        try:
            texts = self.texts(self.defaults)
            back = self.round_trip(self.defaults, texts)
            for name, text in texts.items():
                self.check_size(name, text)
        except InvalidSetting as error:
            message = f"A default cannot be stored: {error}"
            raise ConfigError(message, key=first_name(error)) from error
        for name in self.names:
            if self.to_json(again, name) != texts[name]:
                message = (
                    f"Setting {name} has another default each time it is asked for, so no two "
                    "processes would agree. Give it a fixed one."
                )
                raise ConfigError(message, key=name)
            has_alias = self.model.model_fields[name].validation_alias is not None
            if has_alias and name not in back.model_fields_set:
                message = (
                    f"Setting {name} is not read by its name, by which it is stored, but by its "
                    "alias only. Leave populate_by_name, validate_by_name and extra out of "
                    "model_config."
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
            made = self.model.model_validate({**self.values(current), **changes})
        except Exception as error:  # noqa: BLE001  # a validator may raise anything
            raise self.refusals.refusal(error) from self.refusals.cause(error)
        return self._whole(made)

    def _whole(self, made: object) -> WaffleSettings:
        """Return what validating has returned, after a check that it is the settings.

        :raises InvalidSetting: a validator of all settings has returned something else
        """
        if isinstance(made, self.model):
            return made
        message = (
            f"A validator of all settings returned {type(made).__name__} in place of the settings. "
            "Let it end with `return self`"
        )
        raise invalid_setting(message)

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

    def differ(self, name: str, old: object, new: object) -> bool:
        """Return whether two values of a setting differ.

        Python takes some for equal that a type may distinguish, such as 1 and True.
        """
        if old is new:
            return False
        if type(old) is type(new) and type(old) in FIXED:
            return old != new
        try:
            return self._text(name, old) != self._text(name, new)
        except InvalidSetting:  # the application has put something else into a list or a dict
            return _differ(old, new)

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
        :raises InvalidSetting: a validator of all settings returns something else
        """
        return self._whole(self._parse(texts))

    def _parse(self, texts: Mapping[str, str]) -> object:
        members = {**self._default_members, **self._members(texts)}
        return self.model.model_validate_json("{" + ",".join(members.values()) + "}")

    def _members(self, texts: Mapping[str, str]) -> dict[str, str]:
        starts = self._member_starts
        return {name: starts[name] + text for name, text in texts.items()}

    def with_json(self, current: WaffleSettings, texts: Mapping[str, str]) -> WaffleSettings:
        """Return the settings with some changed to what JSON texts make, by the rules for JSON.

        A text then stands for a moment, and a list for a set, also where a declaration is strict
        with what Python code gives.

        :raises UnknownSetting: a name is not declared
        :raises InvalidSetting: a value, or the whole, is refused
        """
        self.check_known(texts)
        return self.decode({**self.texts(current), **texts})

    def decode(self, texts: Mapping[str, str]) -> WaffleSettings:
        """Return the settings that some stored texts make, with an error for people.

        :raises InvalidSetting: a value, or the whole, is refused
        """
        try:
            made = self._parse(texts)
        except Exception as error:  # noqa: BLE001  # a validator may raise anything
            garbled = [name for name, text in texts.items() if not is_json(text)]
            if garbled:  # pydantic names the place in the JSON of all settings
                message = "It is not JSON, or holds half of a surrogate pair"
                raise invalid_setting(message, *garbled) from None
            raise self.refusals.refusal(error) from self.refusals.cause(error)
        return self._whole(made)

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
        changed = [n for n in self.names if _differ(getattr(back, n), getattr(settings, n))]
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


def _differ(one: object, other: object) -> bool:
    """Return whether two values differ; those that cannot be compared do, such as NaN."""
    try:
        return bool(one != other)
    except Exception:  # noqa: BLE001  # a type of the application may raise anything
        return True
