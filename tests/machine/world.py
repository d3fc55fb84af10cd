"""The hosts, with links of their own to one database and one Redis."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import sqlalchemy as sa

from tests.machine.disk import Disk
from tests.machine.hosts import CHANNEL, NAMES, POLL_SECONDS, REQUEST_SECONDS, Host, holds
from tests.machine.ledger import Ledger
from tests.machine.server_hosts import GunicornHost, UwsgiHost
from tests.support import RedisServer
from tests.support.databases import SERVERS
from tests.support.instance import BOOT
from tests.support.lifecycle import Started
from tests.support.processes import LocalServer, is_alive
from tests.support.uwsgi_server import Options
from tests.support.waiting import LOOK_SECONDS

__all__ = ["World", "send"]

#: What a poll may take longer on a busy machine.
SLACK_SECONDS = 10.0
#: How much longer a worker may not answer at all: so long an update in it waits for SQL at most.
UPDATE_SECONDS = 15.0
DATABASE_NAME = "machine"


class World(Started):
    """Everything that runs."""

    def __init__(
        self, database: str = "postgresql", request_seconds: float = REQUEST_SECONDS
    ) -> None:
        """Choose the database, and how long an answer is waited for; nothing runs yet."""
        self.request_seconds = request_seconds
        self.ledger = Ledger()
        self.redis = RedisServer()
        self.database = SERVERS[database]()
        self.hosts: list[Host] = []
        self.disk: Disk | None = None

    @property
    def database_url(self) -> str:
        """The database, not through any link."""
        url = sa.make_url(self.database.url).set(database=DATABASE_NAME)
        return url.render_as_string(hide_password=False)

    @property
    def servers(self) -> dict[str, LocalServer]:
        """What the hosts share."""
        return {"Redis": self.redis, "SQL": self.database}

    def start(self) -> None:
        """Start everything, and return when every host serves."""
        self.disk = Disk(self.database.directory, self.database.user)
        self.redis.start()
        self.database.start()
        with self._engine(self.database.url) as engine, engine.connect() as connection:
            connection.execute(sa.text(f"CREATE DATABASE {DATABASE_NAME}"))
        self.hosts = self.make_hosts()
        with ThreadPoolExecutor(len(self.hosts)) as pool:
            list(pool.map(lambda host: host.start(), self.hosts))

    def make_hosts(self) -> list[Host]:
        """Return the hosts, each another kind of server."""
        elected: Options = {
            "shared-import": "uwsgi_waffle.boot",
            "lazy-apps": True,
            "cheaper": 1,
            "cheaper-initial": 2,
            "cheaper-algo": "manual",
        }
        return [
            UwsgiHost("mule", self, BOOT, abilities="reload mule"),
            UwsgiHost("elected", self, elected, abilities="reload chain cheaper"),
            GunicornHost("gunicorn", self),
        ]

    def host(self, name: str) -> Host:
        """Return a host by its name."""
        return next(host for host in self.hosts if host.name == name)

    def processes(self) -> dict[str, list[int]]:
        """Return kind -> the pids of everything that runs."""
        found = {"Redis": [self.redis.pid], "SQL": self.database.process.pids()}
        for host in self.hosts:
            for kind, pids in host.processes().items():
                found.setdefault(kind, []).extend(pids)
            if host.writer.pid is not None:
                found.setdefault("writer", []).append(host.writer.pid)
        return found

    def history(self) -> dict[int, int]:
        """Return revision -> value, as SQL has it, and fail where a revision is not whole."""
        statement = sa.text('SELECT revision, name, "new" FROM waffle_change')
        if self.database.name == "mariadb":
            statement = sa.text("SELECT revision, name, `new` FROM waffle_change")
        found: dict[int, dict[str, int]] = {}
        with self._engine(self.database_url) as engine, engine.connect() as connection:
            for revision, name, new in connection.execute(statement):
                found.setdefault(revision, {})[name] = int(new)
        broken = {r: values for r, values in found.items() if values.keys() != set(NAMES)}
        assert not broken, f"revisions that are not whole: {broken}"
        return {revision: max(values.values()) for revision, values in found.items()}

    def revision(self) -> int:
        """Return the present revision, as SQL has it."""
        with self._engine(self.database_url) as engine, engine.connect() as connection:
            statement = sa.text("SELECT revision FROM waffle_namespace")
            return int(connection.execute(statement).scalar_one())

    def check_healed(self) -> None:
        """Check, once all faults have ended, that each host comes to SQL's revision in time."""
        wanted, began_at = self.revision(), time.monotonic()
        deadline = began_at + POLL_SECONDS + SLACK_SECONDS
        with ThreadPoolExecutor(len(self.hosts)) as pool:
            list(pool.map(lambda host: self._check_host(host, wanted, deadline), self.hosts))
        self.ledger.healed(time.monotonic() - began_at)

    def _check_host(self, host: Host, wanted: int, deadline: float) -> None:
        """Ask, several at once, until each process has answered with a revision.

        One that has answered with an older one is late at the deadline. One that has not answered
        may be in the middle of an update.
        """
        behind: dict[int, int] = {}
        missing = set(host.workers())
        with ThreadPoolExecutor(2 * len(missing)) as pool:
            for hold_seconds in holds():
                late = missing & behind.keys() if time.monotonic() > deadline else set()
                if not missing or late or time.monotonic() > deadline + UPDATE_SECONDS:
                    break
                count = 2 * len(host.workers())
                for answer in pool.map(lambda _, s=hold_seconds: host.read(s), range(count)):
                    if answer is not None and answer["revision"] >= wanted:
                        missing.discard(answer["pid"])
                    elif answer is not None:
                        behind[answer["pid"]] = answer["revision"]
                missing &= set(host.workers())
        if missing:
            what = f"{host.name}: {sorted(missing)} at {behind}, not at {wanted}"
            self.ledger.wrong("late", what)

    def check_proof(self) -> None:
        """Check, once all faults have ended, that each host can prove it, with few connections."""
        wanted = self.revision()
        for host in self.hosts:
            if not host.wait(wanted, SLACK_SECONDS):
                self.ledger.wrong("unproven", f"{host.name} cannot prove {wanted}")
        most = sum(host.most_subscriptions for host in self.hosts)
        deadline = time.monotonic() + SLACK_SECONDS
        while not len(self.hosts) <= (count := self.redis.subscribers(CHANNEL)) <= most:
            if time.monotonic() > deadline:
                self.ledger.wrong("late", f"{count} subscriptions to Redis, {most} at most")
                return
            time.sleep(LOOK_SECONDS)

    def close(self) -> None:
        """End everything."""
        for host in self.hosts:
            host.close()
        self.redis.close()
        self.database.kill()
        if self.disk is not None:
            self.disk.close()
        self.database.close()

    @contextlib.contextmanager
    def _engine(self, url: str) -> Iterator[sa.Engine]:
        engine = sa.create_engine(url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
        try:
            yield engine
        finally:
            engine.dispose()


def send(pids: Sequence[int], number: signal.Signals) -> None:
    """Send a signal to processes, those that have ended left out."""
    for pid in pids:
        if is_alive(pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
