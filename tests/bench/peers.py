"""What a read costs beside those of other packages for settings and flags, in one process.

::

    python -m tests.bench.peers

A peer that is not installed, or does not work with what is, is named as not measured. `make bench`
installs them.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flask import Flask, current_app

from tests.bench.table import by_turns, compared, print_table
from tests.support import RedisServer
from uwsgi_waffle import WaffleConf

Read = Callable[[], object]

ROUNDS = 60
READS = 300
FIRST = 'current_app.config["X"]'


def main() -> None:
    """Print a line for each peer, by turns with all others."""
    app = Flask("waffled")
    with tempfile.TemporaryDirectory() as folder:
        app.config.update(
            WAFFLE_CONFS={"X": {"default": 1}},
            WAFFLE_DATABASE_URI=f"sqlite:///{folder}/waffle.db",
            WAFFLE_SNAPSHOT_PATH=f"{folder}/snapshot",
            WAFFLE_POLL_SECONDS=3600,
        )
        waffle: WaffleConf[Any] = WaffleConf(app)
        reads: dict[str, Read] = {FIRST: lambda: current_app.config["X"]}
        reads["waffle.settings.X"] = lambda: waffle.settings.X
        missing = []
        for name, make in PEERS.items():
            try:
                reads[name] = make(Path(folder))
                reads[name]()
            except Exception as error:  # noqa: BLE001  # each fails in its own way
                reads.pop(name, None)
                missing.append([name, "not measured", f"{type(error).__name__}", ""])
        app.add_url_rule("/", "read", lambda: _compare(reads, missing))
        app.test_client().get("/")
        app.extensions["waffleconf"].retire()
        for close in CLOSERS:
            close()


def _compare(reads: dict[str, Read], missing: list[list[str]]) -> str:
    rows = compared(by_turns(reads, ROUNDS, READS), 1e9)
    header = ("read, in a request", "ns", "ratio", "its quartiles")
    print_table("peers", header, [*rows, *missing])
    return "done"


CLOSERS: list[Callable[[], object]] = []


def _dynaconf(_: Path) -> Read:
    settings = importlib.import_module("dynaconf").Dynaconf(X=1)
    return lambda: settings.X


def _openfeature(_: Path) -> Read:
    api = importlib.import_module("openfeature.api")
    memory = importlib.import_module("openfeature.provider.in_memory_provider")
    flag = memory.InMemoryFlag("on", {"on": True, "off": False})
    api.set_provider(memory.InMemoryProvider({"x": flag}))
    client = api.get_client()
    return lambda: client.get_boolean_value("x", default_value=False)


def _launchdarkly(_: Path) -> Read:
    client_module = importlib.import_module("ldclient")
    data = importlib.import_module("ldclient.integrations.test_data").TestData.data_source()
    data.update(data.flag("x").variation_for_all(True))  # noqa: FBT003  # its own signature
    config = client_module.Config("key", update_processor_class=data, send_events=False)
    client = client_module.LDClient(config=config)
    CLOSERS.append(client.close)
    context = client_module.Context.create("user")
    return lambda: client.variation("x", context, False)  # noqa: FBT003  # its own signature


def _unleash(folder: Path) -> Read:
    unleash = importlib.import_module("UnleashClient")
    cache = importlib.import_module("UnleashClient.cache").FileCache("bench", str(folder))
    strategies = [{"name": "default", "parameters": {}}]
    feature = {"name": "x", "enabled": True, "strategies": strategies}
    cache.bootstrap_from_dict({"version": 1, "features": [feature]})
    client = unleash.UnleashClient(
        "http://127.0.0.1:9", "bench", cache=cache, disable_metrics=True, disable_registration=True
    )
    client.initialize_client(fetch_toggles=False)
    CLOSERS.append(client.destroy)
    return lambda: client.is_enabled("x")


def _constance(backend: str, *, is_cached: bool = False) -> Callable[[Path], Read]:
    def make(folder: Path) -> Read:
        _set_django_up(folder)
        base = importlib.import_module("constance.base")
        chosen = importlib.import_module("constance.settings")
        backends = {"BACKEND": f"constance.backends.{backend}"}
        vars(chosen).update(backends, DATABASE_CACHE_BACKEND="default" if is_cached else None)
        config = base.Config()
        config.X = 1  # else each read looks for a value that is not stored
        return lambda: config.X

    return make


def _set_django_up(folder: Path) -> None:
    settings = importlib.import_module("django.conf").settings
    if settings.configured:
        return
    redis_server = RedisServer()
    redis_server.start()
    CLOSERS.append(redis_server.stop)
    settings.configure(
        INSTALLED_APPS=["constance"],
        CONSTANCE_CONFIG={"X": (1, "")},
        CONSTANCE_REDIS_CONNECTION=redis_server.url,
        CACHES={"default": {"BACKEND": f"{CACHES}.redis.RedisCache", "LOCATION": redis_server.url}},
        DATABASES={"default": {"ENGINE": f"{ENGINES}.sqlite3", "NAME": f"{folder}/django.db"}},
    )
    importlib.import_module("django").setup()
    importlib.import_module("django.core.management").call_command("migrate", verbosity=0)


CACHES, ENGINES = "django.core.cache.backends", "django.db.backends"

#: django-constance has its database cached by what all processes share.
PEERS: dict[str, Callable[[Path], Read]] = {
    "dynaconf": _dynaconf,
    "django-constance, in memory": _constance("memory.MemoryBackend"),
    "django-constance, Redis": _constance("redisd.RedisBackend"),
    "django-constance, Redis, cached for 60 s": _constance("redisd.CachingRedisBackend"),
    "django-constance, SQLite": _constance("database.DatabaseBackend"),
    "django-constance, SQLite, cached in Redis": _constance(
        "database.DatabaseBackend", is_cached=True
    ),
    "LaunchDarkly, TestData": _launchdarkly,
    "OpenFeature, in memory": _openfeature,
    "UnleashClient, offline": _unleash,
}


if __name__ == "__main__":
    main()
