"""What else may surround the application: jobs, hooks, sockets, the Emperor, namespaces, chroot."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from tests.support import RedisServer, require, wait_until
from tests.support.instance import BOOT, Instance, assert_serves
from tests.support.places import ROOT
from tests.support.processes import START_SECONDS, ServerProcess
from tests.support.uwsgi_server import uwsgi_command
from tests.support.waiting import SOON_SECONDS

#: Hands over a listening socket as systemd does, and becomes the program.
ACTIVATE = """
import os, socket, sys
listening = socket.create_server(("127.0.0.1", int(sys.argv[1])))
os.dup2(listening.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execvp(sys.argv[2], sys.argv[2:])
"""


class Surrounded(Instance):
    """An instance that another program starts."""

    starter: Sequence[str] = ()

    def command(self) -> list[str]:
        """Return the command that runs the instance in the foreground."""
        return [*self.starter, *super().command()]


class Activated(Surrounded):
    """An instance whose socket is systemd's."""

    def command(self) -> list[str]:
        """Return the command that runs the instance in the foreground."""
        command = super().command()
        ini = self.directory / "uwsgi.ini"
        own = f"http-socket = 127.0.0.1:{self.port}\n"
        ini.write_text(ini.read_text().replace(own, "http-socket = fd://3\n"))
        return command


# -- jobs, hooks and sockets -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(shared_redis: RedisServer) -> Iterator[Activated]:
    """Give an instance with cron jobs, timers, hooks, commands, and a socket of systemd's."""
    done = "touch $(TEST_JOURNAL)"
    jobs = {"import": "tests.apps.jobs", "cron2": f"unique=1 {done}.cron"}
    hooks = {
        "exec-asap": f"{done}.exec-asap",
        "exec-pre-jail": f"{done}.exec-pre-jail",
        "exec-as-root": f"{done}.exec-as-root",
        "exec-as-user": f"{done}.exec-as-user",
        "exec-pre-app": f"{done}.exec-pre-app",
        "exec-post-app": f"{done}.exec-post-app",
        "hook-as-user": f"exec:{done}.hook-as-user",
        "hook-post-fork": f"exec:{done}.hook-post-fork",
        "hook-accepting1": f"exec:{done}.hook-accepting",
    }
    made = Activated(BOOT, jobs, hooks, workers=2, redis=shared_redis, separate=False)
    made.starter = [sys.executable, "-c", ACTIVATE, str(made.port)]
    with made:
        made.wait_for_subscriptions()
        yield made


def jobs(server: Instance) -> list[str]:
    """Return what the jobs have written: their names, and what the process serves."""
    path = Path(f"{server.journal.path}.jobs")
    return path.read_text().splitlines() if path.exists() else []


def test_timers_and_cron_jobs_run_beside_our_signal_and_see_each_change(
    server: Activated,
) -> None:
    server.follow_elsewhere(11)
    server.assert_right(3)
    value = server.set_all(12)
    wait_until(lambda: f"timer {value}" in jobs(server), SOON_SECONDS, "the timer ran")
    wait_until(
        lambda: any(line.startswith("cron ") for line in jobs(server)), SOON_SECONDS, "cron ran"
    )
    wait_until(Path(f"{server.journal.path}.cron").exists, SOON_SECONDS, "cron ran its command")


HOOKS = ("exec-asap", "exec-as-root", "exec-as-user", "exec-pre-app", "exec-post-app")
MORE_HOOKS = ("hook-as-user", "hook-post-fork", "hook-accepting")


def test_commands_and_hooks_run_and_every_process_follows(server: Activated) -> None:
    for hook in (*HOOKS, *MORE_HOOKS):
        path = Path(f"{server.journal.path}.{hook}")
        wait_until(path.exists, SOON_SECONDS, f"{hook} ran")
    server.follow_elsewhere(21)
    server.assert_right(3)


def test_a_socket_of_systemd_serves_each_change_also_after_a_reload(
    server: Activated,
) -> None:
    server.assert_right(3)
    value = server.set_all(31)
    server.reload()
    assert server.count_in_log("SystemD socket activation detected") == 1
    assert_serves(server.read(), value)
    server.follow_elsewhere(32)
    server.assert_right(3)


def test_a_subscriber_that_redis_drops_for_its_full_buffer_loses_nothing(
    server: Activated, shared_redis: RedisServer
) -> None:
    """Its listener stands still while more is announced than Redis keeps for it."""
    mule = server.mule_pids()[0]
    with shared_redis.client() as client:
        before = client.config_get("client-output-buffer-limit")["client-output-buffer-limit"]
        client.config_set("client-output-buffer-limit", "pubsub 65536 65536 1")
        os.kill(mule, signal.SIGSTOP)
        try:

            def is_dropped() -> bool:
                client.publish(server.channel, "x" * 100_000)
                return server.subscriptions == 0

            wait_until(is_dropped, SOON_SECONDS, "Redis drops the subscriber")
            with server.elsewhere() as update:
                update(41)
        finally:
            os.kill(mule, signal.SIGCONT)
            client.config_set("client-output-buffer-limit", before)
    server.wait_until_called_back(41)
    server.wait_for_subscriptions()
    server.follow_elsewhere(42)


def test_the_log_holds_no_failure(server: Activated) -> None:
    assert server.count_in_log("Traceback|OOOPS|DAMN|SIGSEGV") == 0


# -- the Emperor -----------------------------------------------------------------------------------


#: How to start the server; for pyuwsgi, the Python that runs it, else nothing.
COMMAND = uwsgi_command()
IS_SCRIPT = "--binary-path" in COMMAND
UWSGI, PYTHON = (COMMAND[:2], COMMAND[3:]) if IS_SCRIPT else (COMMAND, ())


class Vassal(Instance):
    """An instance that the Emperor starts."""

    def write(self, directory: Path, name: str) -> None:
        """Have the Emperor start it, or start it again."""
        self.command()
        lines = (self.directory / "uwsgi.ini").read_text()
        lines += f"logto = {self.log_path}\n"
        if PYTHON:
            lines += f"binary-path = {PYTHON[0]}\n"
        variables = "".join(f"{key}='{value}'\n" for key, value in self.environment.items())
        (directory / f"{name}.ini.environment").write_text(variables)
        (directory / f"{name}.ini").write_text(lines)


#: Starts a vassal with its own environment. pyuwsgi's Python does not see `env`, and the Emperor
#: would start Python alone.
WRAPPER = f"""#!/bin/sh
set -a
. "./$2.environment"
exec {" ".join(UWSGI)} "$@"
"""


def serves(vassal: Vassal) -> bool:
    return vassal.get("/").status == 200


def test_an_emperor_of_two_applications_keeps_them_apart(
    tmp_path: Path, shared_redis: RedisServer
) -> None:
    """Each has its own settings and its own listener, also after the other one is reloaded."""
    vassals = tmp_path / "vassals"
    vassals.mkdir()
    one, other = (Vassal(BOOT, workers=1, redis=shared_redis, separate=False) for _ in range(2))
    wrapper = tmp_path / "wrapper"
    wrapper.write_text(WRAPPER)
    wrapper.chmod(0o700)
    command = [*uwsgi_command(), "--emperor", str(vassals), "--emperor-wrapper", str(wrapper)]
    variables = {k: v for k, v in os.environ.items() if not k.startswith("WAFFLE_")}
    for vassal in (one, other):
        # On one channel, as two applications on one Redis are by default.
        vassal.environment["WAFFLE_REDIS_CHANNEL"] = one.channel
        vassal.write(vassals, vassal.directory.name)
    log = tmp_path / "log"
    emperor = ServerProcess(
        command,
        log_path=log,
        directory=tmp_path,
        environment={**variables, "PYTHONPATH": str(ROOT)},
    )
    try:
        for vassal in (one, other):
            wait_until(partial(serves, vassal), START_SECONDS, "a vassal serves")
        one.wait_for_subscriptions(2)
        one.set_all(1)
        other.set_all(2)
        with one.elsewhere() as update:
            update(3)
        one.wait_until_called_back(3, lambda: [one.read()["pid"]])
        assert (one.values(), other.values()) == ({3}, {2})
        before = one.read()["pid"]
        one.write(vassals, one.directory.name)
        wait_until(
            lambda: serves(one) and one.read()["pid"] != before, START_SECONDS, "it is reloaded"
        )
        one.wait_for_subscriptions(2)
        assert (one.values(), other.values()) == ({3}, {2})
        for vassal in (one, other):
            assert vassal.count_in_log("Traceback|SIGSEGV|DAMN") == 0
    except BaseException:
        print(log.read_text(), one.log(), other.log())  # noqa: T201  pytest shows it
        raise
    finally:
        emperor.stop(signal.SIGINT)
        one.close()
        other.close()


# -- namespaces and chroot -------------------------------------------------------------------------

#: A `/tmp` and a `/dev/shm` of its own, as systemd's PrivateTmp has, but for what the test needs.
PRIVATE = """
own="$0/tmp"
mkdir "$own" && mount -t tmpfs tmpfs "$own" || exit 1
for seen in "$0" "$1" "$2"; do
    case "$seen" in /tmp/*)
        mkdir -p "$own/${seen#/tmp/}" && mount --bind "$seen" "$own/${seen#/tmp/}" || exit 1
    esac
done
mount --rbind "$own" /tmp && mount -t tmpfs tmpfs /dev/shm || exit 1
shift 2
exec "$@"
"""
#: Another root, with all file systems below it.
CHROOT = """
mkdir "$0/root" && mount --rbind / "$0/root" || exit 1
shift 2
exec "$@"
"""


@pytest.fixture
def unshare() -> str:
    program = shutil.which("unshare") or ""
    command = [program, "--mount", "true"]
    allowed = os.geteuid() == 0 and program and subprocess.run(command, check=False).returncode == 0
    require(allowed, "the right to make mount namespaces")
    return program


@pytest.mark.parametrize("place", ["private", "chroot"])
def test_in_a_mount_namespace_every_process_follows_other_hosts(
    place: str, unshare: str, shared_redis: RedisServer
) -> None:
    """By the default path: what it makes is in shared memory that no process outside sees."""
    chroot = {"chroot": "%d/root"} if place == "chroot" else {}
    instance = Surrounded(BOOT, chroot, workers=2, redis=shared_redis)
    script = CHROOT if place == "chroot" else PRIVATE
    seen = [str(instance.directory), str(ROOT), sys.prefix]
    instance.starter = [unshare, "--mount", "sh", "-c", script, *seen]
    if place == "private":
        del instance.environment["WAFFLE_SNAPSHOT_PATH"]
    with instance:
        instance.wait_for_subscriptions()
        instance.assert_right(3)
        instance.follow_elsewhere(50)
        instance.assert_right()
        states = instance.states()
        assert len({slot[2] for slot in states[1]["processes"]}) == 3
        assert instance.count_in_log("cannot be used|Traceback") == 0
