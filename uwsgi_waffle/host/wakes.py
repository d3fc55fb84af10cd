"""Waking the processes of one host: they wait on a socket, and the listener writes to it.

A wake only says that it is time to look at the host snapshot. A process that misses it looks a
moment later, and its next request does in any case. That the connection ends says that the listener
has ended, so another process takes over at once.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from uwsgi_waffle.server import forks

from .records import HostSnapshot

__all__ = ["Follower", "Waker"]

logger = logging.getLogger(__name__)

#: Connections that wait until the listener's next turn; the kernel may allow fewer.
_BACKLOG = 1024
_WAKE = b"\0"
#: Largest number of wakes received at once.
_MOST_WAKES = 4096


class Waker:
    """The listener's side: it wakes no process until it is opened."""

    def __init__(self, host: HostSnapshot) -> None:
        """Open nothing yet."""
        self._host = host
        self._socket: socket.socket | None = None
        self._followers: list[socket.socket] = []

    def open(self) -> None:
        """Put the socket in its place; where that fails, log it and wake no process."""
        if not self._host.is_shared:
            return
        try:
            self._socket = _listen(_path_of(self._host))
        except OSError as error:
            logger.warning(
                "waffle: the listener cannot wake the other processes of this host (%s). They "
                "look at the host snapshot once a second, and at each request.",
                error,
            )

    def close(self) -> None:
        """Close the connections; the socket's file is left to the next listener."""
        if self._socket is not None:
            self._socket.close()
        for follower in self._followers:
            follower.close()
        self._socket, self._followers = None, []

    def admit(self) -> None:
        """Wake the processes that have connected since the last turn, and from now on."""
        come: list[socket.socket] = []
        with suppress(OSError):  # no other one waits, or there is no descriptor left
            while self._socket is not None:
                come.append(self._socket.accept()[0])
                forks.keep_from_children(come[-1])
                come[-1].setblocking(False)  # noqa: FBT003  # the only way to say so
        if come:
            self._followers = [*filter(_is_open, self._followers), *filter(_wake, come)]

    def wake(self) -> None:
        """Wake the processes that wait."""
        self._followers = [*filter(_wake, self._followers)]


class Follower:
    """The side of a process that does not listen."""

    def __init__(self, host: HostSnapshot) -> None:
        """Connect to nothing yet."""
        self._host = host
        self._path = _path_of(host)
        self._socket: socket.socket | None = None

    @property
    def is_connected(self) -> bool:
        """Whether a listener that wakes this process lived a moment ago."""
        return self._socket is not None

    def connect(self) -> bool:
        """Connect to the listener, and return whether there is one."""
        self._path = _path_of(self._host)
        made = _make_socket()
        try:
            owner = self._path.lstat().st_uid
            if owner == os.geteuid():
                with _short_name(self._path) as name:
                    made.setblocking(False)  # noqa: FBT003
                    made.connect(name)
                    self._socket = made
        except OSError:
            pass  # there is none yet, or too many processes connect at once
        if self._socket is None:
            made.close()
        return self.is_connected

    def wait(self, seconds: float) -> None:
        """Wait until the listener wakes this process or ends, at most so many seconds."""
        if self._socket is None:
            return
        try:
            self._socket.settimeout(seconds)
            has_ended = not self._socket.recv(_MOST_WAKES)
        except TimeoutError:
            has_ended = False
        except OSError:
            has_ended = True
        if has_ended or self._path != _path_of(self._host):
            self.close()

    def close(self) -> None:
        """Close the connection."""
        if self._socket is not None:
            self._socket.close()
        self._socket = None


def _path_of(host: HostSnapshot) -> Path:
    return host.path.with_name(host.path.name + ".wakes")


def _make_socket() -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    forks.keep_from_children(made)
    return made


def _listen(path: Path) -> socket.socket:
    """Return a socket at *path*, in the place of one that an earlier listener left.

    :raises OSError: it cannot be made
    """
    made = _make_socket()
    try:
        made.setblocking(False)  # noqa: FBT003
        path.unlink(missing_ok=True)
        with _short_name(path) as name:
            made.bind(name)
        path.chmod(0o600)
        made.listen(_BACKLOG)
    except BaseException:
        made.close()
        raise
    return made


@contextmanager
def _short_name(path: Path) -> Iterator[str]:
    """Yield another name of *path*: that of a socket has room for 107 bytes."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def _wake(follower: socket.socket) -> bool:
    """Wake a process, and return whether it may still be there."""
    return _is_left(follower, lambda: follower.send(_WAKE, socket.MSG_NOSIGNAL))


def _is_open(follower: socket.socket) -> bool:
    """Return whether the other end is open; nothing is ever written there."""
    return _is_left(follower, lambda: follower.recv(1))


def _is_left(follower: socket.socket, transfer: Callable[[], object]) -> bool:
    """Return whether the other end is open, and close this end where it is not."""
    try:
        if transfer():
            return True
    except BlockingIOError:
        return True  # as many wakes wait there as there is room for; or it is just open
    except OSError:
        pass
    follower.close()
    return False
