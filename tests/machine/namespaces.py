"""Hosts with a network of their own, each joined to the servers by a cable that a test cuts."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.machine.hosts import Host
from tests.machine.proxy import Way
from tests.machine.server_hosts import UwsgiHost
from tests.machine.world import World
from tests.support.availability import find_program
from tests.support.instance import BOOT

__all__ = ["HostBehindCable", "Namespace", "NotAllowed", "WorldOfNamespaces", "WorldWithCable"]

_CLONE_NEWNET = 0x40000000
#: No interface has this hardware address, so what is sent to it arrives nowhere.
_WRONG_ADDRESS = "02:00:00:00:00:fe"


class NotAllowed(Exception):
    """There can be no network namespaces here."""


class Namespace:
    """A network namespace with one cable to ours."""

    def __init__(self, number: int) -> None:
        """Make it.

        :param number: makes its addresses, from 1 to 250
        :raises NotAllowed: that is not allowed, or not possible
        """
        self._name = f"waffle-{os.getpid()}-{number}"
        self._here, self._there = f"wfh{number}-{os.getpid()}"[:15], "cable"
        network = f"10.{128 + os.getpid() % 100}.{number}"  # other tests may have some, too
        self.our_address = f"{network}.1"
        self.its_address = f"{network}.2"
        if find_program("ip") is None:
            message = "it needs the program ip"
            raise NotAllowed(message)
        try:
            _ip("netns", "add", self._name)
        except subprocess.CalledProcessError as error:
            raise NotAllowed(error.stderr.strip()) from error
        try:
            peer = ("peer", "name", self._there, "netns", self._name)
            _ip("link", "add", self._here, "type", "veth", *peer)
            _ip("addr", "add", f"{self.our_address}/30", "dev", self._here)
            _ip("link", "set", self._here, "up")
            self._inside("addr", "add", f"{self.its_address}/30", "dev", self._there)
            self._inside("link", "set", self._there, "up")
            self._inside("link", "set", "lo", "up")
        except BaseException:
            self.close()
            raise

    def cut(self, *ways: Way) -> None:
        """Lose what is sent in the ways that are named (from the host ``there``), both if none."""
        wrong = ("lladdr", _WRONG_ADDRESS, "nud", "permanent")
        if not ways or "there" in ways:
            self._inside("neigh", "replace", self.our_address, *wrong, "dev", self._there)
        if not ways or "back" in ways:
            _ip("neigh", "replace", self.its_address, *wrong, "dev", self._here)

    def heal(self) -> None:
        """Mend the cable."""
        for run, address, device in (
            (self._inside, self.our_address, self._there),
            (_ip, self.its_address, self._here),
        ):
            with contextlib.suppress(subprocess.CalledProcessError):  # it was not cut
                run("neigh", "del", address, "dev", device)

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Be in the namespace, in this thread alone; a process that it starts is there as well."""
        libc = ctypes.CDLL(None, use_errno=True)
        own = Path(f"/proc/self/task/{_thread_id()}/ns/net")
        with own.open("rb") as before, Path("/run/netns", self._name).open("rb") as inside:
            if libc.setns(inside.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
            try:
                yield
            finally:
                if libc.setns(before.fileno(), _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")

    def close(self) -> None:
        """Remove the namespace, and the cable with it."""
        with contextlib.suppress(subprocess.CalledProcessError):
            _ip("link", "del", self._here)
        _ip("netns", "del", self._name)

    def _inside(self, *arguments: str) -> None:
        _ip("-n", self._name, *arguments)


class HostBehindCable(UwsgiHost):
    """uWSGI with a mule in a namespace; whatever asks it does so from within."""

    def __init__(self, name: str, world: World, namespace: Namespace) -> None:
        """Choose the namespace; nothing runs yet."""
        self.namespace = namespace
        options = {**BOOT, "processes": 2}
        address = namespace.our_address
        super().__init__(name, world, options, abilities="reload mule cable", address=address)
        self.server.quick = False  # the Python that would be forked is outside

    def read(self, hold_seconds: float = 0.0) -> dict[str, Any] | None:
        with self.namespace.entered():
            return super().read(hold_seconds)

    def update(self) -> int | None:
        with self.namespace.entered():
            return super().update()

    def update_by_writer(self) -> int | None:
        with self.namespace.entered():
            return super().update_by_writer()

    def update_by_killed_writer(self, steps: int) -> int | None:
        with self.namespace.entered():
            return super().update_by_killed_writer(steps)

    def find(self, hold_seconds: float) -> int | None:
        with self.namespace.entered():
            return super().find(hold_seconds)

    def wait(self, revision: int, seconds: float = 2.0) -> bool | None:
        with self.namespace.entered():
            return super().wait(revision, seconds)

    def start(self) -> None:
        with self.namespace.entered():
            super().start()

    def close(self) -> None:
        super().close()
        self.namespace.close()


class WorldOfNamespaces(World):
    """Three hosts, each in a namespace."""

    def make_hosts(self) -> list[Host]:
        hosts: list[Host] = []
        for number, name in enumerate(("first", "second", "third"), start=1):
            try:
                hosts.append(HostBehindCable(name, self, Namespace(number)))
            except NotAllowed as error:
                pytest.skip(f"network namespaces are not allowed here: {error}")
            self.hosts = hosts  # so that they are closed if the next one fails
        return hosts

    def cable(self, name: str) -> Namespace:
        """Return the cable of a host."""
        host = self.host(name)
        assert isinstance(host, HostBehindCable)
        return host.namespace


class WorldWithCable(World):
    """The hosts of each world, and one in a namespace where that is allowed.

    :ivar without_cable: why there is none, ``""`` where there is
    """

    without_cable = ""

    def make_hosts(self) -> list[Host]:
        hosts = super().make_hosts()
        try:
            hosts.append(HostBehindCable("cabled", self, Namespace(4)))
        except NotAllowed as error:
            self.without_cable = str(error)
        return hosts


def _ip(*arguments: str) -> None:
    program = find_program("ip")
    assert program is not None
    subprocess.run([program, *arguments], check=True, capture_output=True, text=True)


def _thread_id() -> int:
    import threading

    return threading.get_native_id()
