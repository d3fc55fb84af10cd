"""docker-compose.yml, its commands started as processes of this machine instead of containers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
import yaml

from tests.support import RedisServer, UwsgiServer, fresh_database, wait_until
from tests.support.uwsgi_server import ROOT
from tests.support.waiting import SOON_SECONDS

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
WEB_HOSTS = ["web1", "web2"]

#: Enough for each worker of a host to have answered.
ASKED = 16


@pytest.fixture(name="web_hosts")
def _web_hosts() -> Iterator[list[UwsgiServer]]:
    program, *options = SERVICES["redis"]["command"]
    assert program == "redis-server"
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(RedisServer(extra_options=options))
        database_url = stack.enter_context(fresh_database("postgresql"))
        hosts = [web_host(SERVICES[name], redis, database_url) for name in WEB_HOSTS]
        for host in hosts:
            stack.enter_context(host)
        wait_until(lambda: redis.subscribers() == len(hosts), SOON_SECONDS, "all listen")
        yield hosts


def web_host(service: dict[str, Any], redis: RedisServer, database_url: str) -> UwsgiServer:
    """Return a service of the file as a uWSGI of this machine, with a snapshot of its own."""
    program, option, config, *arguments = service["command"]
    assert (program, option) == ("uwsgi", "--ini")
    server = UwsgiServer(ROOT / config, arguments=arguments)
    server.environment = {
        **service["environment"],
        "WAFFLE_DEMO_ADDRESS": f"127.0.0.1:{server.port}",
        "WAFFLE_DATABASE_URI": database_url,
        "WAFFLE_REDIS_HOST": "127.0.0.1",
        "WAFFLE_REDIS_PORT": str(redis.port),
        # Two containers have a /dev/shm each.
        "WAFFLE_SNAPSHOT_PATH": str(server.directory / "snapshot"),
    }
    return server


def test_a_setting_changed_at_one_web_host_is_read_at_the_other(
    web_hosts: list[UwsgiServer],
) -> None:
    here, there = web_hosts

    assert here.post("/settings", form={"SITENAME": "Changed"}).status == 303

    # Sooner than the other host would find it by looking into the database on its own.
    wait_until(lambda: site_name(there) == "Changed", 3, "the other host serves the change")
    assert {site_name(there) for _ in range(ASKED)} == {"Changed"}

    # And the other way round.
    assert there.post("/settings", form={"SITENAME": "Changed back"}).status == 303
    wait_until(lambda: site_name(here) == "Changed back", 3, "the first host serves the change")


def site_name(host: UwsgiServer) -> str:
    """Return the setting as one of the host's workers serves it."""
    name: str = host.get("/settings.json").json()["settings"]["SITENAME"]
    return name


@pytest.mark.parametrize("name", WEB_HOSTS)
def test_a_web_host_finds_its_services_under_the_names_they_have(name: str) -> None:
    environment = SERVICES[name]["environment"]
    database = sa.make_url(environment["WAFFLE_DATABASE_URI"])

    assert database.host in SERVICES
    assert SERVICES[database.host]["environment"] == {
        "POSTGRES_USER": database.username,
        "POSTGRES_PASSWORD": database.password,
        "POSTGRES_DB": database.database,
    }
    assert environment["WAFFLE_REDIS_HOST"] in SERVICES
    assert set(SERVICES[name]["depends_on"]) == {database.host, environment["WAFFLE_REDIS_HOST"]}


@pytest.mark.parametrize("name", WEB_HOSTS)
def test_a_web_host_is_published_to_this_machine_only(name: str) -> None:
    container_port = SERVICES[name]["environment"]["WAFFLE_DEMO_ADDRESS"].rpartition(":")[2]
    for published in SERVICES[name]["ports"]:
        address, _host_port, inner_port = published.split(":")
        assert address == "127.0.0.1"
        assert inner_port == container_port
