"""The `WAFFLE_*` keys: their defaults, the values that they accept, and their errors."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import sqlalchemy as sa
from flask import Flask
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.conftest import Apps
from uwsgi_waffle import ConfigError, WaffleConf, WaffleSettings
from uwsgi_waffle.config import KEYS, Config, redact_url
from uwsgi_waffle.sql.database import Database

#: The table of the contract, but for the database, which has tests of its own.
DEFAULTS: dict[str, object] = {
    "WAFFLE_CONFS": None,
    "WAFFLE_BIND_KEY": None,
    "WAFFLE_NAMESPACE": "default",
    "WAFFLE_MULTIPROC": False,
    "WAFFLE_REDIS_HOST": "localhost",
    "WAFFLE_REDIS_PORT": 6379,
    "WAFFLE_REDIS_CHANNEL": "waffleconf",
    "WAFFLE_REDIS_URL": None,
    "WAFFLE_LISTENER": "auto",
    "WAFFLE_POLL_SECONDS": 5.0,
    "WAFFLE_SNAPSHOT_PATH": None,
    "WAFFLE_ENCRYPTION_KEYS": (),
    "WAFFLE_AUTO_CREATE": True,
    "WAFFLE_TEMPLATES": True,
}

#: Key, a value that cannot work, and a part of the error.
WRONG: list[tuple[str, Any, str]] = [
    ("WAFFLE_CONFS", ["SITENAME"], "must be a dict with text keys, not list"),
    ("WAFFLE_CONFS", {"SITENAME": 5}, "SITENAME must be a dict with text keys, not int"),
    ("WAFFLE_DATABASE_URI", "", "at least 1 character"),
    ("WAFFLE_DATABASE_URI", 5, "valid string"),
    ("WAFFLE_DATABASE_URI", "no url at all", "Give an SQLAlchemy URL"),
    ("WAFFLE_DATABASE_URI", "nosuchdialect://host/database", "install its driver"),
    ("WAFFLE_DATABASE_URI", "postgresql+psycopg_async://host/database", "driver for asyncio"),
    ("WAFFLE_DATABASE_URI", "sqlite+aiosqlite:////tmp/waffle.db", "driver for asyncio"),
    (
        "WAFFLE_DATABASE_URI",
        "oracle+oracledb://host/database",
        "oracle is not one of sqlite, postgres",
    ),
    ("WAFFLE_DATABASE_URI", "postgresql+psycopg://user@host:port/database", "SQLAlchemy URL"),
    ("WAFFLE_NAMESPACE", "a b", "match pattern"),
    ("WAFFLE_NAMESPACE", "n" * 101, "match pattern"),
    ("WAFFLE_MULTIPROC", "perhaps", "valid boolean"),
    ("WAFFLE_REDIS_HOST", "", "at least 1 character"),
    ("WAFFLE_REDIS_PORT", 0, "greater than or equal to 1"),
    ("WAFFLE_REDIS_PORT", 65536, "less than or equal to 65535"),
    ("WAFFLE_REDIS_CHANNEL", "", "at least 1 character"),
    ("WAFFLE_REDIS_URL", "localhost:6379", "redis://, rediss:// or unix://"),
    ("WAFFLE_REDIS_URL", "redis:localhost", "redis://, rediss:// or unix://"),
    ("WAFFLE_REDIS_URL", "http://localhost", "redis://, rediss:// or unix://"),
    ("WAFFLE_REDIS_URL", "unix+sentinel:///run/redis.sock", "redis+sentinel://"),
    ("WAFFLE_REDIS_URL", "redis+sentinels://localhost/mymaster", "redis+cluster://"),
    ("WAFFLE_REDIS_URL", "redis+sentinel://localhost", "name the master"),
    ("WAFFLE_REDIS_URL", "redis+sentinel://a:26379,b:seven/mymaster", "separated by commas"),
    ("WAFFLE_REDIS_URL", "redis+sentinel:///mymaster", "separated by commas"),
    ("WAFFLE_REDIS_URL", "redis+sentinel://localhost/mymaster?no_such_option=1", "no_such_option"),
    ("WAFFLE_REDIS_URL", "redis+cluster://a:6379,b:70000", "separated by commas"),
    ("WAFFLE_REDIS_URL", "redis+cluster://localhost/1", "no databases but 0"),
    ("WAFFLE_REDIS_URL", "redis://localhost:seven", "port"),
    ("WAFFLE_REDIS_URL", "redis://localhost:70000", "port"),
    ("WAFFLE_REDIS_URL", "redis://localhost:0", "port"),
    ("WAFFLE_REDIS_URL", "unix://", "names a socket"),
    ("WAFFLE_REDIS_URL", "redis://localhost?no_such_option=1", "no_such_option"),
    ("WAFFLE_REDIS_URL", "redis://localhost?socket_timeout=soon", "socket_timeout"),
    ("WAFFLE_LISTENER", "cron", "'auto', 'mule', 'worker'"),
    ("WAFFLE_POLL_SECONDS", 0, "greater than or equal to 0.1"),
    ("WAFFLE_POLL_SECONDS", float("nan"), "3600"),
    ("WAFFLE_POLL_SECONDS", "soon", "valid number"),
    ("WAFFLE_SNAPSHOT_PATH", "snapshot", "must be absolute"),
    ("WAFFLE_AUTO_CREATE", 2, "valid boolean"),
]

#: Keys whose value is shown by its type, since a secret default may stand in it.
SHOWN_BY_TYPE = {"WAFFLE_CONFS"}


def configured(**config: object) -> Config:
    app = Flask("tests")
    app.config.update(config)
    return Config.from_app(app)


def test_every_key_has_the_default_of_the_contract() -> None:
    config = configured()
    assert {*DEFAULTS, "WAFFLE_DATABASE_URI"} == set(KEYS)
    assert {key: getattr(config, KEYS[key]) for key in DEFAULTS} == DEFAULTS


def test_the_effective_values_can_be_read_from_the_app() -> None:
    app = Flask("tests")
    config = Config.from_app(app)
    assert app.config["WAFFLE_POLL_SECONDS"] == 5.0
    assert app.config["WAFFLE_DATABASE_URI"] == config.database_uri
    # None means "not set", so those defaults are accepted when they are read again.
    assert Config.from_app(app) == config


@pytest.mark.parametrize("key", sorted(set(KEYS) - {"WAFFLE_DATABASE_URI"}))
def test_none_means_not_set(key: str) -> None:
    assert configured(**{key: None}) == configured()


def test_the_text_of_an_environment_variable_will_do() -> None:
    config = configured(
        WAFFLE_MULTIPROC="true", WAFFLE_REDIS_PORT="7000", WAFFLE_POLL_SECONDS="0.5"
    )
    assert (config.multiproc, config.redis_port, config.poll_seconds) == (True, 7000, 0.5)


def test_the_database_defaults_to_that_of_flask_sqlalchemy() -> None:
    assert configured(SQLALCHEMY_DATABASE_URI="sqlite:////there.db").database_uri == (
        "sqlite:////there.db"
    )
    both = configured(
        SQLALCHEMY_DATABASE_URI="sqlite:////there.db", WAFFLE_DATABASE_URI="sqlite:////ours.db"
    )
    assert both.database_uri == "sqlite:////ours.db"


def test_the_database_defaults_to_a_file_of_the_instance(tmp_path: Path) -> None:
    app = Flask("tests", instance_path=str(tmp_path / "instance"))
    assert Config.from_app(app).database_uri == f"sqlite:///{tmp_path}/instance/waffle.db"


def test_a_relative_sqlite_file_is_one_of_the_instance(tmp_path: Path) -> None:
    """So that it means one file whatever the working directory."""
    app = Flask("tests", instance_path=str(tmp_path))
    app.config["WAFFLE_DATABASE_URI"] = "sqlite:///of/mine.db"
    assert Config.from_app(app).database_uri == f"sqlite:///{tmp_path}/of/mine.db"
    for untouched in ("sqlite:///:memory:", "sqlite://", "sqlite:////absolute.db"):
        assert configured(WAFFLE_DATABASE_URI=untouched).database_uri == untouched


def test_a_url_object_keeps_its_password() -> None:
    url = sa.make_url("postgresql+psycopg://user:secret@host/database")
    assert configured(WAFFLE_DATABASE_URI=url).database_uri == (
        "postgresql+psycopg://user:secret@host/database"
    )


def test_the_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        configured().namespace = "other"


@pytest.mark.parametrize(("key", "value", "reason"), WRONG)
def test_a_wrong_value_is_an_error_that_names_key_value_and_fix(
    apps: Apps, key: str, value: Any, reason: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        apps(**{key: value})
    message = str(caught.value)
    assert caught.value.key == key
    assert key in message
    assert key in SHOWN_BY_TYPE or repr(value) in message
    assert reason in message
    assert any(fix in message for fix in ("Correct it", "Give an", "Remove or correct", "Such as"))
    assert "Undefined" not in message
    assert "\n" not in message


def test_an_unknown_key_is_an_error_that_names_the_nearest(apps: Apps) -> None:
    with pytest.raises(ConfigError, match="Did you mean WAFFLE_POLL_SECONDS") as caught:
        apps(WAFFLE_POLL_SECOND=5)
    assert caught.value.key == "WAFFLE_POLL_SECOND"
    assert caught.value.value == 5


def test_settings_declared_twice_are_an_error(apps: Apps) -> None:
    class Settings(WaffleSettings):
        SITENAME: str = "Waffle"

    with pytest.raises(ConfigError, match="declared twice"):
        apps(Settings, WAFFLE_CONFS={"SITENAME": {"default": "Waffle"}})


def test_a_second_extension_on_one_app_is_an_error(apps: Apps) -> None:
    app, _ = apps()
    with pytest.raises(ConfigError, match="already"):
        WaffleConf(app)


# -- passwords ------------------------------------------------------------------------------------

#: A text that occurs nowhere else, so that where it occurs it was shown.
MARK = "Geheim7"
passwords = st.builds("{}{}{}".format, st.text(max_size=8), st.just(MARK), st.text(max_size=8))
encoded_passwords = passwords.map(lambda text: quote(text.encode("utf-8", "ignore"), safe=""))
names = st.text(string.ascii_letters + string.digits, max_size=6)
hosts = st.text(string.ascii_lowercase, min_size=1, max_size=6)
schemes = st.sampled_from(
    [
        "redis",
        "rediss",
        "unix",
        "redis+sentinel",
        "rediss+cluster",
        "postgresql",
        "postgresql+psycopg",
        "mysql+pymysql",
        "http",
    ]
)


@given(schemes, names, passwords | encoded_passwords, hosts)
@example("redis", "", f"pa/ss{MARK}", "host")
@example("redis", "", f"pa#?@:{MARK}", "host")
@example("redis", "user", f"a@b\n{MARK}", "host")
def test_no_password_is_left_in_a_redacted_url(
    scheme: str, user: str, password: str, host: str
) -> None:
    url = f"{scheme}://{user}:{password}@{host}/0"
    assert MARK not in redact_url(url)
    assert MARK not in redact_url(f"cannot connect to {url}: refused")


@given(
    hosts,
    st.sampled_from(["password", "passwd", "ssl_password", "sslpassword", "PASSWORD"]),
    encoded_passwords,
)
def test_no_password_is_left_in_the_query_of_a_url(host: str, name: str, password: str) -> None:
    redacted = redact_url(f"redis://{host}/0?timeout=3&{name}={password}&db=2")
    assert MARK not in redacted
    assert redacted.startswith(f"redis://{host}/0?timeout=3&")
    assert redacted.endswith("&db=2")


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost:6379/0",
        "redis://user@localhost:6379",
        "unix:///run/redis.sock?db=1",
        "sqlite:////var/lib/waffle.db",
        "postgresql+psycopg://user@/database?host=/run/postgresql",
    ],
)
def test_a_url_without_a_password_is_shown_as_it_is(url: str) -> None:
    assert redact_url(url) == url


@given(
    st.sampled_from(["WAFFLE_DATABASE_URI", "WAFFLE_REDIS_URL"]),
    schemes,
    names,
    passwords | encoded_passwords,
    hosts,
)
@example("WAFFLE_REDIS_URL", "redis", "", f"{MARK}/x", "host")
@example("WAFFLE_DATABASE_URI", "postgresql+psycopg", "user", f"x@{MARK}", "host")
def test_no_password_is_left_in_the_configuration_or_its_errors(
    key: str, scheme: str, user: str, password: str, host: str
) -> None:
    value = f"{scheme}://{user}:{password}@{host}/0"
    for given_value in (value, [value], {"url": value}):
        shown = show_all(key, given_value)
        assert MARK not in shown, shown


def show_all(key: str, value: object) -> str:
    """Return all that is shown of a value: by the configuration, or by what refuses it."""
    try:
        config = configured(**{key: value})
        shown = f"{config!r} {config} {config.redis_location}"
        database = Database(config.database_uri, auto_create=False)
    except ConfigError as error:
        chain: list[BaseException] = [error]
        while (cause := chain[-1].__cause__) is not None:
            chain.append(cause)
        return " ".join(f"{link} {link!r} {getattr(link, 'value', '')!r}" for link in chain)
    return f"{shown} {database.url} {unreachable(database)}"


def unreachable(database: Database) -> Any:
    """Return the name that a driver would give to the server in its errors."""
    return database.engine.url.host


@pytest.mark.parametrize("keys", ["key", b"key", {"one", "two"}, {"one": "two"}, 5])
def test_encryption_keys_must_have_a_first_one(keys: object) -> None:
    """In a set, each process would take another one for it."""
    with pytest.raises(
        ConfigError, match=r"WAFFLE_ENCRYPTION_KEYS = '\*\*\*': give a list of keys"
    ):
        configured(WAFFLE_ENCRYPTION_KEYS=keys)


def test_the_encryption_keys_are_never_shown(apps: Apps) -> None:
    for value in (MARK, [MARK], (MARK, MARK)):
        with pytest.raises(ConfigError) as caught:
            apps(WAFFLE_ENCRYPTION_KEYS=value)
        assert MARK not in f"{caught.value} {caught.value.value!r}"
        assert caught.value.key == "WAFFLE_ENCRYPTION_KEYS"
    assert MARK not in repr(configured(WAFFLE_ENCRYPTION_KEYS=(MARK,)))


def test_an_error_about_the_settings_shows_no_secret_default(apps: Apps) -> None:
    secret = {"default": MARK, "secret": True}
    for confs in (
        {"PASSWORD": secret, "SITENAME": 5},
        {"PASSWORD": {**secret, "ge": 1}},
        {"PASSWORD": {**secret, "max_length": 2}},
        {"PASSWORD": {**secret, "type": int}},
    ):
        with pytest.raises(ConfigError) as caught:
            apps(WAFFLE_CONFS=confs)
        assert MARK not in f"{caught.value} {caught.value.value!r} {caught.value.__cause__}"
