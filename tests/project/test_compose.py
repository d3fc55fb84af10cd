"""docker-compose.yml, its commands started as processes of this machine instead of containers."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import yaml

from tests.support import RedisServer, UwsgiServer, fresh_database, wait_until
from tests.support.command_line import flask_environment
from tests.support.places import ROOT
from tests.support.programs import PROGRAM_SECONDS, output_of_command
from tests.support.quick_start import run

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
WEB_HOSTS = ["web1", "web2"]

#: Enough for each worker of a host to have answered.
ASKED = 16


@pytest.fixture(name="web_hosts")
def _web_hosts(tmp_path: Path) -> Iterator[list[UwsgiServer]]:
    program, *options = SERVICES["redis"]["command"]
    assert program == "redis-server"
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(RedisServer(extra_options=options))
        places = {
            "WAFFLE_DATABASE_URI": stack.enter_context(fresh_database("postgresql")),
            "WAFFLE_DEMO_SECRETS": str(tmp_path),
            "WAFFLE_REDIS_HOST": "127.0.0.1",
            "WAFFLE_REDIS_PORT": str(redis.port),
        }
        make_tables(SERVICES["schema"], places)
        hosts = [web_host(SERVICES[name], places) for name in WEB_HOSTS]
        for host in hosts:
            stack.enter_context(host)
        redis.wait_for_subscribers(len(hosts))
        yield hosts


def make_tables(service: dict[str, Any], places: dict[str, str]) -> None:
    """Run the step that makes the tables."""
    program, *arguments = service["command"]
    assert program == "flask"
    output_of_command(
        [sys.executable, "-m", program, *arguments],
        directory=ROOT,
        environment=flask_environment({**service["environment"], **places}),
    )


def web_host(service: dict[str, Any], places: dict[str, str]) -> UwsgiServer:
    """Return a service of the file as a uWSGI of this machine, with a snapshot of its own."""
    program, option, config, *arguments = service["command"]
    assert (program, option) == ("uwsgi", "--ini")
    server = UwsgiServer(ROOT / config, arguments=arguments)
    server.environment = {
        **service["environment"],
        **places,
        "WAFFLE_DEMO_ADDRESS": f"127.0.0.1:{server.port}",
        # Two containers have a /dev/shm each.
        "WAFFLE_SNAPSHOT_PATH": str(server.directory / "snapshot"),
    }
    return server


def is_healthy(service: dict[str, Any], host: UwsgiServer) -> bool:
    """Return what a health check says of a host, by the port that it has here."""
    kind, program, *arguments = service["healthcheck"]["test"]
    assert (kind, program) == ("CMD", "python")
    port = service["environment"]["WAFFLE_DEMO_ADDRESS"].rpartition(":")[2]
    command = [re.sub(rf":{port}\b", f":{host.port}", argument) for argument in arguments]
    return run([sys.executable, *command], seconds=PROGRAM_SECONDS).status == 0


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

    for name, host in zip(WEB_HOSTS, web_hosts, strict=True):
        assert is_healthy(SERVICES[name], host)
        host.stop()
        assert not is_healthy(SERVICES[name], host)


def test_the_hosts_share_a_key_that_one_of_them_has_made(web_hosts: list[UwsgiServer]) -> None:
    """A page of one host is sent to the other one, with the session and the token of the first."""
    here, there = web_hosts
    (path,) = Path(here.environment["WAFFLE_DEMO_SECRETS"]).iterdir()
    assert (path.name, path.stat().st_mode & 0o777) == ("secret_key", 0o600)
    page = here.get("/waffle/")
    token = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', page.text)
    assert token is not None
    headers = {"Cookie": page.headers["set-cookie"].partition(";")[0]}
    for value, is_accepted in ((token[1], True), ("another", False)):
        form = {"csrf_token": value, "revision": "0", "SITENAME": "Elsewhere"}
        review = there.post("/waffle/review", form=form, headers=headers)
        assert (review.status == 200 and "Save" in review.text) == is_accepted


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
    waits_for = SERVICES[name]["depends_on"]
    assert waits_for == {
        "schema": {"condition": "service_completed_successfully"},
        environment["WAFFLE_REDIS_HOST"]: {"condition": "service_healthy"},
    }
    assert SERVICES["schema"]["depends_on"] == {database.host: {"condition": "service_healthy"}}
    assert SERVICES["schema"]["environment"] == environment


def test_each_service_that_goes_on_has_a_health_check() -> None:
    checked = {name for name, service in SERVICES.items() if "test" in service["healthcheck"]}
    assert checked == SERVICES.keys() - {"schema"}


@pytest.mark.parametrize("name", WEB_HOSTS)
def test_a_web_host_is_published_to_this_machine_only(name: str) -> None:
    container_port = SERVICES[name]["environment"]["WAFFLE_DEMO_ADDRESS"].rpartition(":")[2]
    for published in SERVICES[name]["ports"]:
        address, _host_port, inner_port = published.split(":")
        assert address == "127.0.0.1"
        assert inner_port == container_port
