"""The ``WAFFLE_*`` keys of ``app.config``, read once into one frozen object.

Every key is a field of :class:`Config`, with its type, default, bounds and meaning; error messages
and tests are made from there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import PydanticUndefined

from .errors import ConfigError, suggest

if TYPE_CHECKING:
    from flask import Flask

__all__ = ["KEYS", "Config", "ListenerChoice", "redact_url"]

ListenerChoice = Literal["auto", "mule", "worker", "thread", "gevent", "none"]

_PREFIX = "WAFFLE_"
_HIDDEN = frozenset({"WAFFLE_ENCRYPTION_KEYS"})
_REDIS_SCHEMES = ("redis", "rediss", "unix")
#: Of several servers that act as one.
_REDIS_KINDS = ("sentinel", "cluster")
#: Keys of Flask-WaffleConf that have no counterpart: there is no watcher to choose.
_OBSOLETE = frozenset({"WAFFLE_WATCHTYPE", "WAFFLE_WATCHER_FILE"})


class Config(BaseModel):
    """The configuration of one application, fixed at start. URLs are redacted in its repr."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    confs: dict[str, dict[str, Any]] | None = Field(
        None, description="Settings, declared in the style of Flask-WaffleConf."
    )
    database_uri: str = Field(
        min_length=1, description="The database that holds the truth, as an SQLAlchemy URL."
    )
    bind_key: str | None = Field(
        None, description="Which bind of the Flask-SQLAlchemy given as db= holds the settings."
    )
    namespace: str = Field(
        "default",
        pattern=r"^[A-Za-z0-9_.-]{1,100}$",
        description="Separates several applications in one database and one Redis.",
    )
    multiproc: bool = Field(
        default=False, description="True: listen for changes made elsewhere, and announce ours."
    )
    redis_host: str = Field("localhost", min_length=1, description="Host of the Redis server.")
    redis_port: int = Field(6379, ge=1, le=65535, description="Port of the Redis server.")
    redis_channel: str = Field(
        "waffleconf", min_length=1, description="Channel that changes are announced on."
    )
    redis_url: str | None = Field(
        None,
        description=(
            "redis://, rediss:// or unix:// URL, or redis+sentinel:// or redis+cluster:// with "
            "several servers; wins over host and port."
        ),
    )
    listener: ListenerChoice = Field("auto", description="Where the listener runs.")
    poll_seconds: float = Field(
        5.0,
        ge=0.1,
        le=3600,
        description="How often a listener compares its revision with SQL, message or not.",
    )
    snapshot_path: Path | None = Field(
        None, description="The host's snapshot file; default: a private one in shared memory."
    )
    encryption_keys: tuple[str, ...] = Field(
        (), description="Fernet keys for secret settings at rest; the first encrypts, all decrypt."
    )
    auto_create: bool = Field(
        default=True, description="Create missing tables; False where migrations own the schema."
    )
    templates: bool = Field(
        default=True, description="Whether Jinja templates see the settings as `waffle`."
    )

    @field_validator("redis_url")
    @classmethod
    def _check_redis_url(cls, url: str | None) -> str | None:
        """Accept what redis-py accepts, without importing it here."""
        if url is None:
            return None
        scheme, _, kind = url.partition("://")[0].partition("+")
        if kind in _REDIS_KINDS and scheme in ("redis", "rediss") and "://" in url:
            return url  # the client knows more of it
        if not url.startswith(tuple(f"{scheme}://" for scheme in _REDIS_SCHEMES)):
            message = (
                "the URL must begin with redis://, rediss:// or unix://, or with redis+sentinel:// "
                "or redis+cluster://"
            )
            raise ValueError(message)
        parts = urlsplit(url)
        if parts.scheme == "unix" and not parts.path:
            message = "a unix:// URL names a socket, as in unix:///run/redis.sock"
            raise ValueError(message)
        if not _has_usable_port(parts):
            message = (
                "the port must be between 1 and 65535, and '/', '?', '#' and '@' in a password "
                "must be written as %2F, %3F, %23 and %40"
            )
            raise ValueError(message)
        return url

    @field_validator("encryption_keys", mode="before")
    @classmethod
    def _check_encryption_keys(cls, keys: object) -> object:
        """Refuse what has no first key, or is one itself."""
        if not isinstance(keys, list | tuple):
            message = "give a list of keys, also of a single one: [key]"
            raise ValueError(message)  # noqa: TRY004  # pydantic takes only this for a refusal
        return keys

    @field_validator("snapshot_path")
    @classmethod
    def _check_snapshot_path(cls, path: Path | None) -> Path | None:
        """Refuse a relative path, which is another file in another working directory."""
        if path is not None and not path.is_absolute():
            message = "the path must be absolute, so that every process opens the same file"
            raise ValueError(message)
        return path

    @classmethod
    def from_app(cls, app: Flask, database: object = None) -> Config:
        """Read the keys of an application, and write the effective values back as defaults.

        :param database: the URL of the database that the application has given as ``db=``
        :raises ConfigError: a key is unknown, or its value cannot work
        """
        given = {key: value for key, value in app.config.items() if key.startswith(_PREFIX)}
        for key in sorted(given.keys() - KEYS.keys()):
            fix = f"{suggest(key, KEYS)} Known: {', '.join(KEYS)}."
            if key in _OBSOLETE:
                fix = " Flask-WaffleConf had it; remove it. WAFFLE_LISTENER is 'auto' by default."
            message = f"{key} is not a configuration key.{fix}"
            raise ConfigError(message, key=key, value=_shown(key, given[key]))
        # None means "not set": that is how these keys stand in the defaults written back.
        fields = {KEYS[key]: value for key, value in given.items() if value is not None}
        _check_database(fields, database)
        fields["database_uri"] = database_uri(app, fields.get("database_uri", database))
        try:
            config = cls.model_validate(fields)
        except ValidationError as error:
            raise _config_error(error, given) from None
        for key, field in KEYS.items():
            if key != "WAFFLE_CONFS":
                app.config.setdefault(key, getattr(config, field))
        return config

    @property
    def redis_location(self) -> str:
        """Where Redis is, without a password, for log lines and status."""
        return redact_url(self.redis_url or f"redis://{self.redis_host}:{self.redis_port}")

    @property
    def is_in_memory(self) -> bool:
        """Whether the database is SQLite's in the memory of one application, and no file."""
        return bool(re.fullmatch(r"sqlite(\+\w+)?:/{2,3}(:memory:)?(\?.*)?", self.database_uri))

    @property
    def database_file(self) -> Path | None:
        """The path of a SQLite file; ``None`` where the database is not surely that file."""
        # From release 2.1 on SQLAlchemy decodes what follows a percent sign.
        found = re.fullmatch(r"sqlite(?:\+\w+)?:///(/[^?%]+)(?:\?.*)?", self.database_uri)
        return Path(found[1]) if found else None

    @property
    def may_use_mule(self) -> bool:
        """Whether a mule is to listen, if there is one."""
        return self.multiproc and self.listener in ("auto", "mule")

    @property
    def stale_seconds(self) -> float:
        """Age of a heartbeat, in seconds, past which its listener counts as dead."""
        return 3 * self.poll_seconds

    def __repr_args__(self) -> Any:
        """Leave out keys and passwords."""
        for name, value in super().__repr_args__():
            if name == "encryption_keys":
                yield name, f"<{len(self.encryption_keys)} keys>"
            elif name in ("database_uri", "redis_url") and value:
                yield name, redact_url(value)
            elif name != "confs":
                yield name, value


#: Configuration key -> field of :class:`Config`.
KEYS: dict[str, str] = {_PREFIX + name.upper(): name for name in Config.model_fields}


def database_uri(app: Flask, uri: object) -> object:
    """Return the database to use: the one given, Flask-SQLAlchemy's, or a file of the instance.

    A relative SQLite path is relative to the instance folder, as in Flask-SQLAlchemy, so that it is
    one file whatever the working directory.
    """
    instance = Path(app.instance_path)
    if uri is None:
        uri = app.config.get("SQLALCHEMY_DATABASE_URI") or f"sqlite:///{instance / 'waffle.db'}"
    if isinstance(uri, str):
        relative = re.match(r"^(sqlite(?:\+\w+)?:///)(?!/|:memory:|file:)(.+)$", uri)
        if relative:
            return f"{relative[1]}{instance / relative[2]}"
        return uri
    # An sqlalchemy.URL; str() would mask its password.
    render = getattr(uri, "render_as_string", None)
    return render(hide_password=False) if render is not None else uri


def _check_database(fields: Mapping[str, object], database: object) -> None:
    """Refuse a database that is given twice, or a part of one.

    :raises ConfigError: it is
    """
    if database is not None and "database_uri" in fields:
        value = _shown("WAFFLE_DATABASE_URI", fields["database_uri"])
        message = (
            f"WAFFLE_DATABASE_URI = {value!r}: db= names a database, too. Remove one; another bind "
            "of db goes to WAFFLE_BIND_KEY."
        )
        raise ConfigError(message, key="WAFFLE_DATABASE_URI", value=value)
    if database is None and "bind_key" in fields:
        value = fields["bind_key"]
        message = f"WAFFLE_BIND_KEY = {value!r}: there is no db= that it belongs to. Pass db=."
        raise ConfigError(message, key="WAFFLE_BIND_KEY", value=value)


def redact_url(url: str) -> str:
    """Return a URL without its password, for logs, errors and pages.

    Everything up to the last ``@`` is masked, in case the password was not percent-encoded.
    """
    without = re.sub(r"(?s)(?<=://)([^:@/?#]*):.*@", r"\1:***@", url)
    return re.sub(r"(?i)([?&][^=&#]*pass[^=&#]*=)[^&#]*", r"\1***", without)


def _has_usable_port(parts: SplitResult) -> bool:
    """Return whether the port of a URL is valid, or left out."""
    try:
        return parts.port != 0
    except ValueError:  # its text may show a piece of a password that was not percent-encoded
        return False


def _shown(key: str, value: object) -> object:
    """Return a value as an error may show it."""
    if key in _HIDDEN:
        return "***"
    if value is None or isinstance(value, bool | int | float):
        return value
    # An object in the place of a URL may have one in its repr.
    return redact_url(value if isinstance(value, str) else repr(value))


def _config_error(error: ValidationError, given: Mapping[str, object]) -> ConfigError:
    """Return pydantic's first finding as an error that names the key, the value and the fix."""
    found = error.errors(include_url=False, include_context=False)[0]
    field = str(found["loc"][0])
    key = _PREFIX + field.upper()
    reason = found["msg"].removeprefix("Value error, ")
    if field == "confs":
        return _confs_error(found["loc"], given[key])
    value = _shown(key, given.get(key))
    default = Config.model_fields[field].default
    has_default = default is not None and default is not PydanticUndefined
    fix = f"Correct it, or leave it out for {default!r}." if has_default else "Correct it."
    meaning = Config.model_fields[field].description
    return ConfigError(f"{key} = {value!r}: {reason}. {fix} ({meaning})", key=key, value=value)


def _confs_error(loc: tuple[int | str, ...], confs: object) -> ConfigError:
    """Return what is wrong with the shape of ``WAFFLE_CONFS``, without defaults that are secret."""
    key = "WAFFLE_CONFS"
    example = "{'SITENAME': {'desc': 'Shown in the header', 'default': 'Waffle'}}"
    at_fault = confs.get(loc[1]) if isinstance(confs, Mapping) and len(loc) > 1 else confs
    where = f"{key}: {loc[1]}" if at_fault is not confs else key
    message = (
        f"{where} must be a dict with text keys, not {type(at_fault).__name__}. Such as {example}."
    )
    return ConfigError(message, key=key, value=type(at_fault).__name__)
