"""`metrics`: the host as Prometheus reads it, whichever of its processes is asked."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import Field, SecretStr

import uwsgi_waffle
from tests.conftest import Apps, state_of
from tests.host.others import MEMBER
from tests.process.conftest import forbidden_io
from tests.support import RedisServer, wait_until
from tests.support.listening import CONFS, Host
from tests.support.programs import Program
from tests.support.waiting import NEVER_SECONDS, SOON_SECONDS
from uwsgi_waffle import WaffleConf, WaffleSettings
from uwsgi_waffle.host import areas
from uwsgi_waffle.ops import metrics
from uwsgi_waffle.ops.metrics import Metric, Sample
from uwsgi_waffle.values.position import Position
from uwsgi_waffle.values.snapshot import RefusedValue

Labels = tuple[tuple[str, str], ...]


def read(waffle: WaffleConf[Any]) -> dict[str, dict[Labels, float]]:
    """Return what Prometheus reads: name -> labels -> value."""
    found: dict[str, dict[Labels, float]] = {}
    for family in text_string_to_metric_families(waffle.metrics()):
        assert family.documentation.endswith(".")
        assert family.type in ("gauge", "counter")
        for sample in family.samples:
            labels = tuple(sorted(sample.labels.items()))
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


def value(waffle: WaffleConf[Any], name: str, **labels: str) -> float | None:
    """Return one number, ``None`` where there is none."""
    return read(waffle).get(name, {}).get(tuple(sorted(labels.items())))


def processes(waffle: WaffleConf[Any]) -> dict[str, float]:
    """Return how many processes of the host are in which state, but for those without any."""
    found = read(waffle)["waffle_host_processes"]
    return {dict(labels)["state"]: count for labels, count in found.items() if count}


def test_a_host_that_is_well(apps: Apps, redis_server: RedisServer) -> None:
    here = Host(apps, "here", redis_server, namespace="shop")
    here.listen(redis_server)
    here.change(2)
    found = read(here.waffle)
    ((info, one),) = found["waffle_info"].items()
    assert one == 1
    assert dict(info) == {
        "version": uwsgi_waffle.__version__,
        "namespace": "shop",
        "host": here.state.host.host_id,
        "listener": "thread",
    }
    assert found["waffle_revision"] == {(): 1}
    assert processes(here.waffle) == {"current": 1}
    for name in ("waffle_listener_running", "waffle_redis_heard", "waffle_sql_answers"):
        assert found[name] == {(): 1}, name
    for name in ("waffle_refused_values", "waffle_callbacks_running", "waffle_host_fault"):
        assert found[name] == {(): 0}, name
    assert found["waffle_ignored_messages_total"] == {(): 0}
    assert 0 <= found["waffle_listener_heartbeat_age_seconds"][()] < SOON_SECONDS
    assert 0 <= found["waffle_sql_answer_age_seconds"][()] < SOON_SECONDS
    assert found["waffle_poll_seconds"] == {(): NEVER_SECONDS}


def test_every_process_of_a_host_gives_the_same(apps: Apps) -> None:
    """Also one that is not listed, such as a command; but for the time that passes."""
    (_, asked), (_, other) = apps(WAFFLE_CONFS=CONFS), apps(WAFFLE_CONFS=CONFS)
    asked.update({"SIZE": 2})
    lines = [
        [line for line in waffle.metrics().splitlines() if "age_seconds" not in line]
        for waffle in (asked, other)
    ]
    assert lines[0] == lines[1]


def test_what_the_processes_of_a_host_serve(apps: Apps) -> None:
    """One that is not woken serves an earlier state until its next request."""
    app, waffle = apps(WAFFLE_CONFS=CONFS)
    host = state_of(app).host
    with Program(MEMBER, host.path) as member:
        member.ask()  # which serves a state of its own
        assert processes(waffle) == {"behind": 1}
        host.register("process", follows=False)
        host.slots.record(Position("e" * 16, 7, "f" * 16))
        assert processes(waffle) == {"behind": 1, "at_next_request": 1}
        refused = RefusedValue("SIZE", "default", "too large")
        host.slots.record(host.position, (refused, refused))
        assert processes(waffle) == {"behind": 1, "refusing": 1}
        assert value(waffle, "waffle_refused_values") == 2
        host.slots.record(host.position)
        host.slots.record_expected_workers(3)
        assert processes(waffle) == {"behind": 1, "current": 1, "unlisted": 3}


def test_what_is_not_known_is_left_out(apps: Apps) -> None:
    _, waffle = apps(WAFFLE_CONFS=CONFS, WAFFLE_MULTIPROC=False)
    found = read(waffle)
    assert found["waffle_listener_running"] == {(): 0}
    for name in (
        "waffle_listener_heartbeat_age_seconds",
        "waffle_redis_heard",
        "waffle_callback_start_time_seconds",
    ):
        assert name not in found, name


def test_a_revision_in_doubt_is_left_out(apps: Apps) -> None:
    app, waffle = apps(WAFFLE_CONFS=CONFS)
    waffle.update({"SIZE": 2})
    areas.leave_in_doubt(state_of(app).host.words)
    assert value(waffle, "waffle_revision") is None


def test_redis_that_is_away(apps: Apps, own_redis: RedisServer) -> None:
    here = Host(apps, "here", own_redis, poll_seconds=0.2)
    here.listen(own_redis)
    own_redis.kill()
    here.wait_until_listener("polling")
    assert value(here.waffle, "waffle_redis_heard") == 0
    assert value(here.waffle, "waffle_listener_running") == 1


def test_a_callback_that_runs(apps: Apps) -> None:
    app, waffle = apps(WAFFLE_CONFS=CONFS)
    began, ends = threading.Event(), threading.Event()
    since = time.time()

    @waffle.on_change("SIZE")
    def hang() -> None:
        began.set()
        ends.wait(SOON_SECONDS)

    waffle.health()  # sets the process up
    waffle.update({"SIZE": 2})
    assert began.wait(SOON_SECONDS)
    (slot,) = state_of(app).host.slots.living()
    assert value(waffle, "waffle_callbacks_running") == 1
    started = value(
        waffle, "waffle_callback_start_time_seconds", pid=f"{slot.pid}", role="process", worker="0"
    )
    assert started is not None
    assert since <= started <= time.time()
    ends.set()
    wait_until(lambda: value(waffle, "waffle_callbacks_running") == 0, SOON_SECONDS, "it ends")


class Settings(WaffleSettings):
    """What no metric shows."""

    SIZE: int = Field(1, le=10)
    SITENAME: str = "V4lue-of-before"
    API_KEY: SecretStr = SecretStr("k3y-of-before")


def test_no_value_is_shown(apps: Apps) -> None:
    _, writer = apps(WAFFLE_CONFS={n: {"default": ""} for n in ("SIZE", "SITENAME", "API_KEY")})
    writer.update({"SIZE": "h1dden", "SITENAME": "n4me", "API_KEY": "s3cret"})
    _, waffle = apps(Settings)
    waffle.health()
    text = waffle.metrics()
    assert value(waffle, "waffle_refused_values") == 1
    hidden = ("h1dden", "n4me", "s3cret", "V4lue", "k3y", "SIZE", "SITENAME", "API_KEY")
    assert [part for part in hidden if part in text] == []


def test_metrics_ask_nothing(apps: Apps, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where no listener keeps the host up to date."""
    app, waffle = apps(Settings, WAFFLE_POLL_SECONDS=0.1)
    with forbidden_io(app, monkeypatch) as seen:
        read(waffle)
    assert seen == []


@pytest.mark.parametrize("text", ['a"b', "a\\b", "a\nb", 'a\\"\n', "\\n", "\udcff"])
def test_any_label_is_read_as_it_was_written(text: str) -> None:
    metric = Metric("waffle_x", "gauge", "Help\nof \\ two lines.", (Sample(1, {"a": text}),))
    (family,) = text_string_to_metric_families(metrics.text([metric]))
    assert family.documentation == "Help\nof \\ two lines."
    (sample,) = family.samples
    assert sample.labels == {"a": text.encode("utf-8", "replace").decode()}


@pytest.mark.parametrize(("number", "shown"), [(2**53 + 1, "9007199254740993"), (0.25, "0.25")])
def test_numbers_are_written_whole(number: float, shown: str) -> None:
    metric = Metric("waffle_x", "gauge", "Help.", (Sample(number),))
    assert metrics.text([metric]).splitlines() == [
        "# HELP waffle_x Help.",
        "# TYPE waffle_x gauge",
        f"waffle_x {shown}",
    ]
