"""The socket by which the listener of a host wakes its other processes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import wait_until
from tests.support.programs import Program, output_of
from tests.support.waiting import NEVER_SECONDS, SOON_SECONDS
from uwsgi_waffle.host.records import HostSnapshot
from uwsgi_waffle.host.wakes import Follower, Waker

#: Follows, and prints a line for each wake, and another when the connection ends.
FOLLOWER = """
import pathlib, sys
if sys.argv[2] == "gevent":
    from gevent import monkey
    monkey.patch_all()
from uwsgi_waffle.host.records import HostSnapshot
from uwsgi_waffle.host.wakes import Follower
follower = Follower(HostSnapshot(pathlib.Path(sys.argv[1])))
assert follower.connect()
print("connected", flush=True)
while follower.is_connected:
    follower.wait(60)
    print("woken" if follower.is_connected else "ended", flush=True)
"""


@pytest.fixture
def host(tmp_path: Path) -> HostSnapshot:
    """Give a host whose path is too long for the name of a socket."""
    return HostSnapshot(tmp_path / ("long" * 20) / ("name" * 20) / "snapshot")


@pytest.fixture
def waker(host: HostSnapshot) -> Iterator[Waker]:
    """Give the waker of the listener."""
    made = Waker(host)
    made.open()
    yield made
    made.close()


@pytest.mark.parametrize("kind", ["thread", "gevent"])
def test_each_wake_reaches_each_process_and_the_end_does(
    host: HostSnapshot, waker: Waker, kind: str
) -> None:
    """The first wake comes by itself: what was missed before may have been a change."""
    with Program(FOLLOWER, host.path, kind) as one, Program(FOLLOWER, host.path, kind) as other:
        followers = (one, other)
        assert [follower.read() for follower in followers] == ["connected"] * 2
        waker.admit()
        assert [follower.read() for follower in followers] == ["woken"] * 2
        for _ in range(3):
            waker.wake()
            assert [follower.read() for follower in followers] == ["woken"] * 2
        one.kill()
        waker.wake()
        waker.wake()
        assert other.read() == "woken"
        waker.close()
        wait_until(lambda: other.read() == "ended", SOON_SECONDS, "the end is noticed")


def test_without_a_listener_there_is_no_connection(host: HostSnapshot) -> None:
    """Also where one has left its socket behind; its successor takes the place of that."""
    follower = Follower(host)
    assert not follower.connect()
    first, second = Waker(host), Waker(host)
    first.open()
    first.close()
    assert not follower.connect()
    second.open()
    assert follower.connect()
    second.admit()
    follower.wait(SOON_SECONDS)
    assert follower.is_connected
    second.close()
    follower.wait(SOON_SECONDS)
    assert not follower.is_connected


def test_followers_that_have_ended_are_let_go(host: HostSnapshot, waker: Waker) -> None:
    """Processes that come and go do not use up the listener's descriptors."""
    descriptors = Path("/proc/self/fd")
    before = len(list(descriptors.iterdir()))
    for _ in range(50):
        follower = Follower(host)
        assert follower.connect()
        waker.admit()
        follower.close()
    assert len(list(descriptors.iterdir())) <= before + 2


def test_a_process_that_never_looks_holds_up_no_other(host: HostSnapshot, waker: Waker) -> None:
    """Its wakes are dropped once there is no room for them."""
    stopped, other = Follower(host), Follower(host)
    assert stopped.connect()
    assert other.connect()
    waker.admit()
    began = time.monotonic()
    for _ in range(5_000):
        waker.wake()
    other.wait(0)
    assert other.is_connected
    assert time.monotonic() - began < SOON_SECONDS
    stopped.close()
    other.close()


def test_a_socket_that_cannot_be_made_is_logged(
    host: HostSnapshot, caplog: pytest.LogCaptureFixture
) -> None:
    host.path.with_name("snapshot.wakes").mkdir()
    waker = Waker(host)
    waker.open()
    assert "cannot wake the other processes" in caplog.text
    waker.admit()
    waker.wake()
    assert not Follower(host).connect()


def test_another_user_cannot_wake_a_process(host: HostSnapshot, waker: Waker) -> None:
    assert waker is not None
    socket_path = host.path.with_name("snapshot.wakes")
    assert socket_path.stat().st_mode & 0o777 == 0o600
    if os.geteuid() == 0:
        os.chown(socket_path, 65534, 65534)
        assert not Follower(host).connect()


def test_a_greenlet_that_waits_lets_others_run(host: HostSnapshot, waker: Waker) -> None:
    waker.admit()
    program = f"""
import pathlib, sys
from gevent import monkey
monkey.patch_all()
import gevent
from uwsgi_waffle.host.records import HostSnapshot
from uwsgi_waffle.host.wakes import Follower
follower = Follower(HostSnapshot(pathlib.Path(sys.argv[1])))
assert follower.connect()
waiting = gevent.spawn(follower.wait, {NEVER_SECONDS})
gevent.sleep(0.05)
print("runs" if not waiting.ready() else "waits")
"""
    assert output_of(program, host.path) == "runs"
