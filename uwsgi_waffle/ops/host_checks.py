"""What ``doctor`` looks at on this host: the host snapshot, the processes, uWSGI's options."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from uwsgi_waffle.bus.fleet import HostStatus
from uwsgi_waffle.host.files import default_path
from uwsgi_waffle.host.lives import pid_namespace
from uwsgi_waffle.process.state import State
from uwsgi_waffle.server import ini, traps
from uwsgi_waffle.server.traps import Finding
from uwsgi_waffle.sql.holders import user_name

from .status import slow_callbacks

__all__ = ["ini_file", "options", "processes", "running", "snapshot"]

# -- the host snapshot --------------------------------------------------------------------------


def snapshot(state: State) -> Iterator[Finding]:
    """Yield what is wrong with the host snapshot."""
    path = state.host.path
    if not state.host.is_shared:
        yield Finding(
            "snapshot-not-shared",
            f"The host snapshot {path} cannot be used by {user_name(os.geteuid())} "
            f"({state.host.not_shared_reason}), so this process and the others do not see each "
            "other's changes before they ask SQL.",
            _remedy(path),
        )
    else:
        yield from _permissions(path)
    if state.config.snapshot_path is None:
        yield from _other_users(default_path(state.config))


def _remedy(path: Path) -> str:
    """Return what mends a host snapshot that this user cannot use."""
    own = os.geteuid()
    files = sorted(path.parent.glob(f"{glob.escape(path.name)}*"))
    found = [place for place in (path.parent, *files) if _owner(place) != own]
    foreign = next((f for f in found if f != path.parent or _owner(f) != 0), None)
    if foreign is None:
        return (
            "Run as the user that the server runs as; or give WAFFLE_SNAPSHOT_PATH a directory of "
            "that user, which no other user may write to."
        )
    user, here = user_name(_owner(foreign)), user_name(own)
    group = path.parent if foreign == path.parent else f"{path}*"
    return (
        f"{foreign} belongs to user {user}. If {here} is the user that the server runs as, let "
        f"root run `chown -R {here} {group}`, or remove it; else run this command as that user."
    )


def _owner(path: Path) -> int:
    """Return the user that a file belongs to; this one where it is not there, or not to be seen."""
    try:
        return path.lstat().st_uid
    except OSError:
        return os.geteuid()


def _permissions(path: Path) -> Iterator[Finding]:
    # What others could write, or replace, was refused when it was opened; reading is left.
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        yield Finding(
            "snapshot-mode",
            f"Others may read or write {path}, which holds the settings.",
            f"Run `chmod 600 {path}`.",
        )
    if path.parent.stat().st_mode & 0o022:
        yield Finding(
            "snapshot-directory",
            f"Others may put files beside {path}, which keeps it from being made anew.",
            "Give WAFFLE_SNAPSHOT_PATH a directory that only its user may write to.",
            is_wrong=False,
        )


def _other_users(own: Path) -> Iterator[Finding]:
    """Yield that another user has a host snapshot of the same application on this host."""
    for directory in sorted(own.parent.parent.glob("uwsgi_waffle-*")):
        certainty = None if directory == own.parent else _certainty(directory / own.name)
        if certainty is None:
            continue
        user = user_name(directory.stat().st_uid)
        yield Finding(
            "other-user",
            f"User {user} {certainty} this application on this host, too, with a host snapshot of "
            f"its own in {directory}. Its processes are not among those that this user sees.",
            f"Run this command as that user: `sudo -u {user} flask waffle ...`.",
            is_wrong=certainty == "runs",
        )


def _certainty(path: Path) -> str | None:
    """Return whether the owner of a file ``runs``, or ``may run``, the application."""
    try:
        path.lstat()
    except FileNotFoundError:
        return None
    except PermissionError:
        return "may run"
    return "runs"


# -- processes ----------------------------------------------------------------------------------


def processes(state: State, host: HostStatus) -> Iterator[Finding]:
    """Yield what is wrong with the processes of this host and their listener."""
    elsewhere = state.host.slots.count_elsewhere()
    if elsewhere:
        use = "1 process uses" if elsewhere == 1 else f"{elsewhere} processes use"
        yield Finding(
            "snapshot-replaced",
            f"On this host, {use} the host snapshot that was at {state.host.path} before the "
            "present one.",
            "A process moves within a second, or at its next request. End one that hangs, or is "
            "stopped (state T in `ps`), or let it go on.",
        )
    if not host.processes:
        yield Finding(
            "no-process",
            "No process of the application runs on this host, as far as this user sees.",
            "Start the server; a process is listed once it has set itself up, at its first "
            "request at the latest.",
            is_wrong=False,
        )
        return
    if state.config.multiproc and host.listener.state == "absent":
        yield _no_listener(state)
    elif host.listener.state == "polling":
        yield Finding(
            "listener-polls",
            f"The listener of this host only polls SQL ({host.listener.error or 'no Redis'}).",
            "Make Redis answer on this host; the listener finds it by itself.",
        )
    for process in host.processes:
        if process.follows and process.position != host.position:
            number = f" {process.worker}" if process.worker else ""
            yield Finding(
                "process-behind",
                f"{process.role.capitalize()}{number} (pid {process.pid}) has revision "
                f"{process.revision}, not {host.revision}: it is stopped, or busy with a request.",
                "Its next request sees the revision. If it hangs, end it; uWSGI's `harakiri` does "
                "so by itself.",
            )
    for slow in slow_callbacks(host):
        yield Finding(
            "callback-slow",
            f"A callback, {slow.what}, {slow.describe()}",
            f"If it is not to take that long: `py-spy dump --pid {slow.pids[0]}` shows what it "
            "does, and a reload ends it.",
            is_wrong=False,
        )


def _no_listener(state: State) -> Finding:
    chosen = state.config.listener
    fix = f"Set WAFFLE_LISTENER, which is {chosen!r}, to 'auto'. " if chosen != "auto" else ""
    return Finding(
        "no-listener",
        "No listener runs on this host: each request asks SQL, at most once in "
        f"{state.config.poll_seconds:g} s.",
        f"{fix}Under uWSGI add `shared-import = uwsgi_waffle.boot` and `mule = waffle` (without a "
        "mule, uWSGI before 2.0.27 needs `enable-threads = true`); or run `flask waffle listen`. "
        "The server's log names the reason when it starts.",
    )


# -- uWSGI --------------------------------------------------------------------------------------


def running(host: HostStatus) -> Iterator[ini.Configuration]:
    """Yield the options of the instances whose processes serve the application on this host."""
    here = pid_namespace()  # in that of another container, the pid is another program's
    for namespace, master in sorted({process.instance for process in host.processes}):
        if master and namespace == here:
            with suppress(OSError):  # it has just ended, or is another user's
                yield ini.of_running_master(master)


def ini_file(path: Path) -> Iterator[Finding]:
    """Yield what is wrong with the options of a file."""
    try:
        found = ini.read_ini(path)
    except OSError as error:
        yield Finding("ini-unreadable", f"{path}: {error}.", "Let this user read it.")
    else:
        yield from options(found)


def options(found: ini.Configuration) -> Iterator[Finding]:
    """Yield what is wrong with options; here all mounts are known, which Python in uWSGI is not."""
    server = found.as_server()
    mounts = len(found.values.get("mount", []))
    for trap in traps.find(server):
        if trap.code != "several-interpreters" or mounts > 1:
            yield trap
    boots = "uwsgi_waffle.boot" in " ".join(found.values.get("shared-import", []))
    if not (server.enabled("master") or server.enabled("M")):
        yield Finding(
            "no-master",
            "uWSGI runs without a master, so there are no signals: an elected worker listens, and "
            "a thread in each of the others waits to be woken by it.",
            "Set `master = true`.",
        )
    elif not boots and (server.enabled("lazy-apps") or server.enabled("lazy")):
        yield Finding(
            "lazy-without-boot",
            "lazy-apps without uwsgi_waffle.boot in the master: an elected worker listens, a "
            "thread in each of the others waits to be woken by it, and a mule gets no program.",
            "Add `shared-import = uwsgi_waffle.boot`.",
        )
