"""Which settings are secret, by whatever type says so, and what their errors may repeat."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from datetime import date
from typing import Annotated, Any, ForwardRef, Literal, NamedTuple, NewType, Optional, TypeVar

import pytest
from cryptography.fernet import Fernet
from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    RootModel,
    Secret,
    SecretBytes,
    SecretStr,
    create_model,
    field_validator,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema
from typing_extensions import Self, TypeAliasType, TypedDict

from tests.conftest import Apps, execute, state_of
from tests.support.command_line import run_in_process
from uwsgi_waffle import ConfigError, InvalidSetting, WaffleSettings

#: Stands in nothing else, so that where it shows up a secret was shown.
MARK = "Geheim7"


class Key(SecretStr):
    """A secret type of the application."""


class Birthday(Secret[date]):
    """A secret that is no text."""


class Login(BaseModel):
    """A model with a secret in it."""

    user: str = ""
    password: SecretStr = Field(default=SecretStr(""), alias="pass-word")


class Tree(BaseModel):
    """A model that refers to itself, with a secret that is declared by a word."""

    name: str = ""
    pin: str = Field(default="", json_schema_extra={"secret": True})
    children: list[Tree] = []


class Logins(RootModel[list[Login]]):
    """A model without fields of its own."""


@dataclasses.dataclass(frozen=True)
class Account:
    """A dataclass with a secret in it."""

    user: str
    password: SecretStr


class Pair(NamedTuple):
    """A tuple with a secret in it."""

    user: str
    password: SecretStr


class Entry(TypedDict):
    """A dict with a secret in it."""

    user: str
    password: SecretStr


Token = NewType("Token", SecretStr)
Alias = TypeAliasType("Alias", list[SecretStr] | None)
T = TypeVar("T", bound=SecretStr)
Short = Annotated[SecretStr, Field(max_length=20)]
Worded = Annotated[str, Field(json_schema_extra={"secret": True})]

#: A type, the default of the setting, and a value that holds MARK.
SECRETS: dict[str, tuple[Any, object, object]] = {
    "plain": (SecretStr, SecretStr(""), MARK),
    "bytes": (SecretBytes, SecretBytes(b""), MARK.encode()),
    "optional": (Optional[SecretStr], None, MARK),  # noqa: UP045  as older code has it
    "optional annotated": (Optional[Short], None, MARK),  # noqa: UP045  likewise
    "annotated optional": (Annotated[SecretStr | None, Field(max_length=20)], None, MARK),
    "list": (list[SecretStr], [], [MARK]),
    "list annotated": (list[Short], [], [MARK]),
    "dict": (dict[str, Short], {}, {"a": MARK}),
    "dict of lists": (dict[str, list[SecretStr]], {}, {"a": [MARK]}),
    "key of a dict": (dict[SecretStr, int], {}, {MARK: 1}),
    "tuple": (tuple[int, SecretStr], (1, SecretStr("")), (2, MARK)),
    "set": (frozenset[SecretStr], frozenset(), [MARK]),
    "union": (int | SecretStr, 1, MARK),
    "union annotated": (int | Short, 1, MARK),
    "subclass": (Key, Key(""), MARK),
    "new type": (Token, Token(SecretStr("")), MARK),
    "list of a new type": (list[Token], [], [MARK]),
    "pydantic.Secret": (Secret[str], Secret(""), MARK),
    "subclass of pydantic.Secret": (Birthday | None, None, "2001-02-03"),
    "alias": (Alias, None, [MARK]),
    "type variable": (list[T], [], [MARK]),  # type: ignore[valid-type]  # pydantic takes its bound
    "model": (Login, Login(), {"user": "u", "pass-word": MARK}),
    "list of models": (list[Login], [], [{"user": "u", "pass-word": MARK}]),
    "root model": (Logins, Logins([]), [{"user": "u", "pass-word": MARK}]),
    "recursive model": (Tree, Tree(), {"children": [{"pin": MARK}]}),
    "dataclass": (Account | None, None, {"user": "u", "password": MARK}),
    "named tuple": (Pair | None, None, ["u", MARK]),
    "typed dict": (Entry | None, None, {"user": "u", "password": MARK}),
    "word within a list": (list[Worded], [], [MARK]),
}


def declared(kind: Any, default: object, **more: Any) -> type[WaffleSettings]:
    """Return settings of which X is of that type."""
    fields: dict[str, Any] = {"X": (kind, Field(default=default, **more))}
    return create_model("Settings", __base__=WaffleSettings, **fields)


@pytest.mark.parametrize("kind", SECRETS)
def test_a_secret_is_recognised_in_whatever_type_it_stands(apps: Apps, kind: str) -> None:
    annotation, default, value = SECRETS[kind]
    model = declared(annotation, default)
    keys = [Fernet.generate_key().decode()]
    app, waffle = apps(model, WAFFLE_ENCRYPTION_KEYS=keys)
    assert state_of(app).declaration.secrets == {"X"}

    done = waffle.update({"X": value})

    assert (done.revision, list(done.changes)) == (1, ["X"])
    mark = "2001-02-03" if "Birthday" in str(annotation) else MARK
    stored = execute(apps.database_uri, "SELECT value FROM waffle_setting")[0][0]
    assert stored.startswith("fernet:")
    shown = [repr(waffle.settings), repr(done), repr(state_of(app).serving.current)]
    commands = (["list"], ["list", "--json"], ["get", "X"], ["history"], ["export"])
    shown += [run_in_process(app, *command).output for command in commands]
    assert mark not in "".join(shown)
    # It comes back as it was given, in a process that only has what is stored.
    there = apps(model, host="there", WAFFLE_ENCRYPTION_KEYS=keys)[1]
    assert there.settings == waffle.settings
    assert waffle.update({"X": value}).revision == 1
    revealed = json.loads(run_in_process(app, "get", "X", "--reveal", "--json").output)
    assert mark in json.dumps(revealed["value"])
    assert mark in run_in_process(app, "history", "--reveal", "--json").output


@pytest.mark.parametrize("kind", ["list", "dict", "model", "recursive model", "dataclass"])
def test_an_error_about_a_part_of_a_secret_does_not_repeat_it(apps: Apps, kind: str) -> None:
    annotation, default, _ = SECRETS[kind]
    waffle = apps(declared(annotation, default))[1]
    with pytest.raises(InvalidSetting) as caught:
        waffle.update({"X": MARK})
    assert MARK not in f"{caught.value} {caught.value.errors}"


class Opaque:
    """An object, not a class, that pydantic takes for a type as it makes a schema."""

    def __repr__(self) -> str:
        return "Opaque"

    def __get_pydantic_core_schema__(self, source: object, handler: object) -> CoreSchema:
        del source, handler
        return core_schema.str_schema()


@pytest.mark.parametrize(
    ("annotation", "said"),
    [
        (Opaque(), "Opaque"),
        (list[Opaque()], "Opaque"),  # type: ignore[misc]  # an object in the place of a type
        ("list[NoSuchType]", "NoSuchType"),
        (list[ForwardRef("NoSuchType")], "NoSuchType"),  # type: ignore[misc]  # not resolved
    ],
)
def test_what_may_hold_a_secret_unseen_is_refused_at_the_declaration(
    apps: Apps, annotation: Any, said: str
) -> None:
    with pytest.raises(ConfigError, match=f"Setting X.*{said}") as caught:
        apps(declared(annotation, default=None))
    assert caught.value.key == "X"
    assert "secret" in str(caught.value)


def test_an_annotation_that_cannot_be_asked_is_refused(apps: Apps) -> None:
    def broken(_schema: dict[str, Any]) -> None:
        raise KeyError

    with pytest.raises(ConfigError, match="Setting X"):
        apps(declared(str, "", json_schema_extra=broken))


def test_a_function_may_declare_a_secret(apps: Apps) -> None:
    def secret(schema: dict[str, Any]) -> None:
        schema["secret"] = True

    app, _ = apps(declared(str, "", json_schema_extra=secret))
    assert state_of(app).declaration.secrets == {"X"}


def test_a_value_that_turns_out_to_be_a_secret_is_not_stored(apps: Apps) -> None:
    """No annotation shows what a validator makes of a value."""

    def conceal(text: str) -> object:
        return SecretStr(text)

    fix = re.escape('json_schema_extra={"secret": True}')
    with pytest.raises(ConfigError, match=f"X.*{fix}") as refused:
        apps(declared(Annotated[str, AfterValidator(conceal)], MARK))
    assert MARK not in f"{refused.value} {refused.value.value}"

    kind = Annotated[str | None, AfterValidator(lambda text: text and conceal(text))]
    waffle = apps(declared(kind, None), host="there")[1]
    with pytest.raises(InvalidSetting, match=fix) as caught:
        waffle.update({"X": MARK})
    assert MARK not in f"{caught.value} {caught.value.errors}"
    assert waffle.revision == 0


@pytest.mark.parametrize(
    ("annotation", "default"),
    [
        (str, ""),
        (bytes, b""),
        (int | None, None),
        (Annotated[str, "note"], ""),
        (list[int], []),
        (dict[str, Any], {}),
        (Any, "SecretStr"),
        (Literal["SecretStr"], "SecretStr"),
    ],
)
def test_what_holds_no_secret_is_shown(apps: Apps, annotation: Any, default: object) -> None:
    app, _ = apps(declared(annotation, default))
    assert state_of(app).declaration.secrets == frozenset()


# -- errors -------------------------------------------------------------------------------------


def custom(kind: str, template: str) -> Callable[[str], str]:
    """Return a validator that refuses every new value, and repeats it."""

    def validate(value: str) -> str:
        if value:
            raise PydanticCustomError(kind, template, {"value": value})
        return value

    return validate


@pytest.mark.parametrize("kind", ["bad_token", "string_type", "json_invalid", "value_error"])
def test_an_error_of_the_application_does_not_repeat_a_secret(apps: Apps, kind: str) -> None:
    """Neither one of a type of its own, nor one that borrows a type of pydantic's."""
    checked = Annotated[str, AfterValidator(custom(kind, "{value} is bad"))]
    app, waffle = apps(declared(checked, "", json_schema_extra={"secret": True}))

    with pytest.raises(InvalidSetting) as caught:
        waffle.update({"X": MARK})

    assert MARK not in f"{caught.value} {caught.value.errors}"
    (found,) = caught.value.errors
    assert (found["loc"], found["type"]) == (("X",), kind)
    said = run_in_process(app, "set", "--from-stdin", "X", typed=MARK)
    assert said.status == 1
    assert MARK not in said.output + said.errors


def test_pydantic_s_own_reasons_are_shown_of_a_secret_too(apps: Apps) -> None:
    waffle = apps(declared(SecretStr, SecretStr("abc"), min_length=3, max_length=5))[1]
    for value, said in (
        ("a", "X: Value should have at least 3 items"),
        (MARK, "X: Value should have at most 5 items"),
        (5, "X: Input should be a valid string"),
    ):
        with pytest.raises(InvalidSetting, match=said):
            waffle.update({"X": value})


def test_a_reason_that_pydantic_takes_from_the_value_is_hidden(apps: Apps) -> None:
    waffle = apps(declared(Secret[date] | None, None))[1]
    with pytest.raises(InvalidSetting) as caught:
        waffle.update({"X": MARK})
    assert "hidden" in str(caught.value)


def test_a_reason_of_the_whole_is_shown_unless_it_repeats_a_secret(apps: Apps) -> None:
    class Whole(WaffleSettings):
        TOKEN: str = Field(default="", json_schema_extra={"secret": True})
        LEVEL: int = 0

        @model_validator(mode="after")
        def check(self) -> Self:
            if self.LEVEL > 1:
                message = "the level is too high"
                raise ValueError(message)
            if self.LEVEL == 1:
                kind = "whole"
                raise PydanticCustomError(kind, "{token} is bad", {"token": self.TOKEN})
            return self

    waffle = apps(Whole)[1]
    waffle.update({"TOKEN": MARK})
    with pytest.raises(InvalidSetting, match="the level is too high"):
        waffle.update({"LEVEL": 2})
    with pytest.raises(InvalidSetting, match="hidden") as caught:
        waffle.update({"LEVEL": 1})
    assert MARK not in f"{caught.value} {caught.value.errors}"


def test_a_stored_value_that_a_validator_refuses_is_not_repeated(apps: Apps) -> None:
    class Before(WaffleSettings):
        X: str = Field(default="", json_schema_extra={"secret": True})

    class After(WaffleSettings):
        X: str = Field(default="", json_schema_extra={"secret": True})

        @field_validator("X")
        @classmethod
        def check(cls, value: str) -> str:
            return custom("bad_token", "{value} is bad")(value)

    apps(Before)[1].update({"X": MARK})
    app, _ = apps(After)
    (refused,) = state_of(app).serving.current.refused
    assert MARK not in str(refused)
    assert refused.name == "X"
