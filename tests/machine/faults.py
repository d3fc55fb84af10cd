"""What can happen to the hosts and to what they share, and how each of it ends."""

from __future__ import annotations

import contextlib
import json
import random
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tests.machine.damage import damaged
from tests.machine.hosts import CHANNEL, Host
from tests.machine.namespaces import HostBehindCable
from tests.machine.proxy import Proxy, Way
from tests.machine.server_hosts import UwsgiHost
from tests.machine.world import World, send
from tests.support.processes import LocalServer
from uwsgi_waffle.host import layout

__all__ = ["FAULTS", "Active", "Fault", "Faults"]

#: Ends a fault; may wait.
Heal = Callable[[], None]

#: A delay in seconds, each way.
DELAY_SECONDS = 0.2
#: How many damaged messages a forger publishes for each report that it finds.
DAMAGED = 50
#: Less than what Redis holds when it is empty.
FULL_BYTES = 1


@dataclass(frozen=True)
class Fault:
    """One thing that can happen.

    :ivar kind: what happens
    :ivar what: to what it happens: a host's ``processes``, ``redis`` link, ``sql`` link,
        ``cable``, ``snapshot`` or ``writer``, or a shared ``Redis`` or ``SQL``; one fault at a time
        happens to each
    :ivar ability: what the host must be able to do
    """

    kind: str
    what: str
    begin: Callable[[World, Host], Heal | None]
    ability: str = ""

    @property
    def is_shared(self) -> bool:
        """Whether it happens to all hosts."""
        return self.what in {"Redis", "SQL"}

    def __str__(self) -> str:
        return f"{self.kind} {self.what}" if self.what in {"redis", "sql"} else self.kind

    def can_happen_to(self, host: Host) -> bool:
        """Return whether a host can have it."""
        return not self.ability or self.ability in host.abilities


@dataclass(frozen=True)
class Active:
    """A fault that has begun."""

    fault: Fault
    target: str
    heal: Heal | None


class Faults:
    """The faults of a world that have begun."""

    def __init__(self, world: World) -> None:
        """Begin none."""
        self._world = world
        self._active: list[Active] = []

    def begin(self, fault: Fault, host: Host) -> bool:
        """Begin a fault unless it cannot happen now, and return whether it has begun."""
        target = fault.what if fault.is_shared else f"{host.name} {fault.what}"
        if any(active.target == target for active in self._active):
            return False
        if not fault.can_happen_to(host):
            return False
        self._world.ledger.counts[f"fault: {fault}"] += 1
        for without in self._hosts_without_sql(fault, host):
            self._world.ledger.sql_may_be_away(without)
        self._active.append(Active(fault, target, fault.begin(self._world, host)))
        return True

    def heal(self) -> None:
        """End all faults: first those of links and servers, which processes may wait for."""
        active, self._active = self._active, []
        for one in sorted(active, key=lambda one: one.fault.what == "processes"):
            if one.heal is not None:
                one.heal()
        for host in self._world.hosts:
            self._world.ledger.sql_is_back(host.name)

    def _hosts_without_sql(self, fault: Fault, host: Host) -> list[str]:
        """Return the hosts that may not reach SQL during a fault."""
        if fault.what == "SQL":
            return [each.name for each in self._world.hosts]
        return [host.name] if fault.what in {"sql", "cable"} else []

    def __str__(self) -> str:
        return ", ".join(f"{one.fault.kind} ({one.target})" for one in self._active) or "none"


# -- processes ------------------------------------------------------------------------------------


def _kill_one(kind: str) -> Callable[[World, Host], Heal]:
    def begin(_world: World, host: Host) -> Heal:
        before = host.processes()
        pids = [pid for name, pids in before.items() if kind in name for pid in pids]
        send(pids[:1] if kind == "mule" else random.sample(pids, 1), signal.SIGKILL)
        return lambda: host.wait_until_whole(before)

    return begin


def _stop(kind: str) -> Callable[[World, Host], Heal]:
    def begin(world: World, host: Host) -> Heal:
        before = host.processes()
        pids = [pid for name, pids in before.items() if kind in name for pid in pids]
        if kind != "":
            pids = random.sample(pids, 1)
        send(pids, signal.SIGSTOP)
        for pid in set(pids) & set(host.serving()):
            world.ledger.stopped(pid)

        def heal() -> None:
            for pid in pids:
                world.ledger.continues(pid)
            send(pids, signal.SIGCONT)
            host.wait_until_whole(before)

        return heal

    return begin


def _kill_host(_world: World, host: Host) -> Heal:
    host.kill()
    return host.start


def _restart_host(_world: World, host: Host) -> None:
    host.stop()
    host.start()


def _reload(_world: World, host: Host) -> Heal:
    before = host.processes()
    host.reload()
    return lambda: host.wait_until_replaced(before)


def _chain_reload(_world: World, host: Host) -> Heal:
    assert isinstance(host, UwsgiHost)
    before = host.processes()
    if host.begin_chain_reload():
        return lambda: host.wait_until_replaced(before)
    return host.wait_until_ready


def _cheaper(_world: World, host: Host) -> Heal:
    """Have one worker less for a while; uWSGI would end the last one, too."""
    assert isinstance(host, UwsgiHost)
    before = host.processes()
    host.fifo("-")

    def heal() -> None:
        host.fifo("+")
        # A chain reload passes over one that still loads.
        host.wait_until_whole(before)

    return heal


def _delete_snapshot(_world: World, host: Host) -> None:
    """As a program does that cleans up: the processes make another, and find each other there."""
    host.snapshot_path.unlink(missing_ok=True)


def _damage_snapshot(_world: World, host: Host) -> None:
    """Change bytes of its records."""
    chosen = random.Random()  # noqa: S311  guards nothing
    with contextlib.suppress(FileNotFoundError), host.snapshot_path.open("r+b") as file:
        for offset in layout.AREA_OFFSETS:
            file.seek(offset + chosen.randrange(layout.AREA_HEADER_BYTES + 200))
            file.write(chosen.randbytes(8))


def _kill_writer(_world: World, host: Host) -> None:
    if host.writer.pid is not None:
        send([host.writer.pid], signal.SIGKILL)


def _stop_writer(_world: World, host: Host) -> Heal | None:
    pid = host.writer.pid
    if pid is None:
        return None
    send([pid], signal.SIGSTOP)
    return lambda: send([pid], signal.SIGCONT)


# -- links ----------------------------------------------------------------------------------------


def _link(what: str, act: Callable[[Proxy], None], *, lasts: bool = True) -> Callable[..., Heal]:
    def begin(_world: World, host: Host) -> Heal:
        link = host.redis_link if what == "redis" else host.sql_link
        act(link)
        return link.heal if lasts else lambda: None

    return begin


def _cable(*ways: Way) -> Callable[[World, Host], Heal]:
    def begin(_world: World, host: Host) -> Heal:
        assert isinstance(host, HostBehindCable)
        host.namespace.cut(*ways)
        return host.namespace.heal

    return begin


# -- what all hosts share -------------------------------------------------------------------------


def _server(
    name: str, act: Literal["kill", "restart", "pause"]
) -> Callable[[World, Host], Heal | None]:
    def begin(world: World, _host: Host) -> Heal | None:
        server: LocalServer = world.servers[name]
        getattr(server, act)()
        return {"kill": server.start, "restart": None, "pause": server.resume}[act]

    return begin


def _fill_redis(world: World, _host: Host) -> Heal:
    def limit(size: int) -> None:
        with world.redis.client() as client:
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set("maxmemory", size)

    limit(FULL_BYTES)
    return lambda: limit(0)


def _fill_sql(world: World, _host: Host) -> Heal:
    disk = world.disk
    assert disk is not None
    disk.fill()

    def heal() -> None:
        disk.empty()
        if not world.database.process.running:  # PostgreSQL ends itself where its log has no room
            world.database.restart()

    return heal


def _forge(world: World, _host: Host) -> None:
    """Publish garbage and unsigned messages, damage reports, and put some under other names."""
    chosen = random.Random()  # noqa: S311  guards nothing
    with world.redis.client() as client:
        forged = ["waffle", "default", "0" * 16, 2**40, "1" * 16, "x"]
        for message in (b"\xff", b"[" * 1000, json.dumps(forged), json.dumps({"revision": 9})):
            client.publish(CHANNEL, message)
        for key in client.scan_iter(f"{{{CHANNEL}:*hosts"):
            for host_id, entry in client.hgetall(key).items():
                client.hset(key, host_id[::-1], entry)
                client.hset(key, "0" * 16, b"x " + entry)
                for _ in range(DAMAGED):
                    client.publish(CHANNEL, damaged(chosen, json.dumps(forged).encode()))
                    client.publish(key.replace(b"hosts", b"reports"), damaged(chosen, entry))
                client.hset(key, host_id, damaged(chosen, entry))


FAULTS = (
    Fault("kill worker", "processes", _kill_one("worker")),
    Fault("kill mule", "processes", _kill_one("mule"), "mule"),
    Fault("kill host", "processes", _kill_host),
    Fault("kill writer", "writer", _kill_writer),
    Fault("stop worker", "processes", _stop("worker")),
    Fault("stop mule", "processes", _stop("mule"), "mule"),
    Fault("stop host", "processes", _stop("")),
    Fault("stop writer", "writer", _stop_writer),
    Fault("reload", "processes", _reload, "reload"),
    Fault("chain reload", "processes", _chain_reload, "chain"),
    Fault("cheaper", "processes", _cheaper, "cheaper"),
    Fault("restart host", "processes", _restart_host),
    Fault("delete snapshot", "snapshot", _delete_snapshot),
    Fault("damage snapshot", "snapshot", _damage_snapshot),
    Fault("cut cable", "cable", _cable(), "cable"),
    Fault("cut cable one way", "cable", _cable("there"), "cable"),
    Fault("cut cable the other way", "cable", _cable("back"), "cable"),
    *(
        Fault(kind, what, _link(what, act, lasts=lasts))
        for what in ("redis", "sql")
        for kind, act, lasts in (
            ("cut", Proxy.cut, True),
            ("cut one way", lambda link: link.cut("there"), True),
            ("cut the other way", lambda link: link.cut("back"), True),
            ("delay", lambda link: link.delay(DELAY_SECONDS), True),
            ("reset", Proxy.reset, False),
            ("refuse", Proxy.refuse, True),
        )
    ),
    *(
        Fault(f"{act} {name}", name, _server(name, act))
        for name in ("Redis", "SQL")
        for act in ("kill", "restart", "pause")
    ),
    Fault("fill Redis", "Redis", _fill_redis),
    Fault("fill SQL", "SQL", _fill_sql),
    Fault("forge", "Redis", _forge),
)
