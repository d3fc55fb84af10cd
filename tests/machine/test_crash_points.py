"""A writer that is killed between any two of its steps: its change is wholly there, or not at all.

On its own host and on another one, within one poll; and the next writer finds nothing in its way.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Apps, execute
from tests.machine.crasher import NAMES, Crasher
from tests.support import DATABASE_KINDS, DatabaseKind, RedisServer, fresh_database, wait_until
from tests.support.listening import Host
from tests.support.soak import is_soak, times
from tests.support.waiting import SOON_SECONDS
from uwsgi_waffle.listen import reporter

KINDS: tuple[DatabaseKind, ...] = DATABASE_KINDS if is_soak() else ("sqlite",)
POLL_SECONDS = 0.1

#: What a writer does outside its own memory, in order; it is killed before and after each.
BEFORE_COMMIT = (
    "sql/changes.py replace",
    "sql/changes.py write_settings",
    "sql/changes.py write_history",
)
COMMIT = "sql/store.py _commit"
AFTER_COMMIT = (
    "host/records.py publish",
    "host/records.py _publish",
    "host/areas.py write",
    "bus/channel.py announce",
    "process/serving.py serve",
    "bus/channel.py is_received",
)
NOT_MADE = [*(f"{step} {end}" for step in BEFORE_COMMIT for end in ("call", "return"))]
NOT_MADE.append(f"{COMMIT} call")
MADE = [f"{COMMIT} return", *(f"{s} {end}" for s in AFTER_COMMIT for end in ("call", "return"))]


class Survivors:
    """Two hosts that listen, one of them the writer's."""

    def __init__(self, apps: Apps, redis: RedisServer, channel: str) -> None:
        self.apps = apps
        confs = {name: {"default": 0} for name in NAMES}
        self.here, self.there = (
            Host(apps, name, redis, poll_seconds=POLL_SECONDS, confs=confs, redis_channel=channel)
            for name in ("here", "there")
        )
        for host in (self.here, self.there):
            host.listen()
            host.wait_until_listener("live")
        keys = ("DATABASE_URI", "SNAPSHOT_PATH", "REDIS_URL", "REDIS_CHANNEL", "MULTIPROC")
        self.config = {f"WAFFLE_{key}": self.here.app.config[f"WAFFLE_{key}"] for key in keys}
        self.config["WAFFLE_LISTENER"] = "none"
        self._value = 0

    def next_value(self) -> int:
        self._value += 1
        return self._value

    @property
    def revision(self) -> int:
        return self.here.state.store.peek().revision

    def check(self, value: int, before: int, made: bool | None = None) -> None:
        """Check that a change is whole or not there, in SQL and on both hosts.

        :param before: the revision before it
        :param made: which of both is right, ``None`` if either is
        """
        rows = dict(execute(self.apps.database_uri, "SELECT name, value FROM waffle_setting"))
        revision = self.revision
        assert made in (None, revision == before + 1), f"revision {before} became {revision}"
        if revision == before:
            assert str(value) not in rows.values()
        else:
            assert (revision, rows) == (before + 1, dict.fromkeys(NAMES, str(value)))
        lines = execute(
            self.apps.database_uri,
            f"SELECT name FROM waffle_change WHERE revision > {before}",  # noqa: S608  a number
        )
        assert len(lines) == (0 if revision == before else len(NAMES))
        position = self.here.state.store.peek()
        expected = {name: int(rows.get(name, 0)) for name in NAMES}
        for host in (self.here, self.there):
            host.wait_until_at(position)
            wait_until(
                lambda host=host: served(host) == expected,  # type: ignore[misc]
                SOON_SECONDS,
                f"{expected} is served, not {served(host)}",
            )


def served(host: Host) -> dict[str, Any]:
    """Return what a host serves."""
    return {name: host.app.config[name] for name in NAMES}


@pytest.fixture(scope="module", params=KINDS)
def survivors(
    request: pytest.FixtureRequest, shared_redis: RedisServer, tmp_path_factory: Any
) -> Iterator[Survivors]:
    directory: Path = tmp_path_factory.mktemp("crash")
    with (
        fresh_database(request.param) as url,
        contextlib.closing(Apps(directory, url)) as apps,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(reporter, "TURN_SECONDS", POLL_SECONDS)
        yield Survivors(apps, shared_redis, f"crash-{request.param}")


@pytest.fixture(scope="module")
def crasher(survivors: Survivors) -> Iterator[Crasher]:
    with Crasher(survivors.config) as program:
        program.write(survivors.next_value())
        yield program


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("step", [*NOT_MADE, *MADE])
def test_a_change_is_whole_or_not_there(survivors: Survivors, crasher: Crasher, step: str) -> None:
    count = killed = 0
    while killed < times(2, 1000):
        before, value = survivors.revision, survivors.next_value()
        is_killed = crasher.write(value, kill_at=step)[-1] == step
        survivors.check(value, before, made=step in MADE or not is_killed)
        count, killed = count + 1, killed + is_killed
        assert count < 10 + 10 * killed, f"writers seldom take the step {step}"


@pytest.mark.timeout(3600)
def test_a_change_is_whole_or_not_there_whichever_line_was_the_last(
    survivors: Survivors, crasher: Crasher
) -> None:
    """The lines after `update` has begun; which of them come before the commit is not asked."""
    steps = sorted(set(crasher.write(survivors.next_value())))
    assert len(steps) > 100
    for step in random.sample(steps, times(40, len(steps))):
        before, value = survivors.revision, survivors.next_value()
        crasher.write(value, kill_at=step)
        survivors.check(value, before)
    before, value = survivors.revision, survivors.next_value()
    crasher.write(value)
    survivors.check(value, before, made=True)
