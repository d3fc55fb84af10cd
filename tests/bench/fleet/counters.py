"""How busy this machine and its database are while something is measured."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import sqlalchemy as sa


class Cpu:
    """How busy this machine was, by /proc/stat, and two kinds of processes on it."""

    def __init__(self, cpu_seconds: Callable[[], float], redis: Callable[[], float]) -> None:
        self._simulator, self._redis = cpu_seconds, redis
        self._before = self._now()

    def _now(self) -> tuple[float, ...]:
        fields = [int(n) for n in Path("/proc/stat").read_text().split("\n")[0].split()[1:]]
        idle = fields[3] + fields[4]
        return sum(fields), sum(fields) - idle, self._simulator(), self._redis()

    def shares(self) -> list[str]:
        """Return the shares of all CPU time: busy, the simulator's, Redis's."""
        everything, busy, simulator, redis = (
            now - before for now, before in zip(self._now(), self._before, strict=True)
        )
        ticks = os.sysconf("SC_CLK_TCK")
        shares = (busy / everything, simulator * ticks / everything, redis * ticks / everything)
        return [f"{share:.0%}" for share in shares]


class ConnectionCount:
    """The most connections to SQL at a time, looked at again and again on one of its own."""

    def __init__(self, url: str) -> None:
        self._engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.most = 0

    @contextlib.contextmanager
    def counting(self) -> Iterator[ConnectionCount]:
        """Count from entry to exit."""
        self._thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            self._thread.join()

    def _look(self) -> None:
        count = sa.text(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
        with self._engine.connect() as connection:
            while not self._stop.wait(0.05):
                self.most = max(self.most, connection.execute(count).scalar_one())
