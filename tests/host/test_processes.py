"""The list of processes in the host snapshot: each one that lives, with what it serves."""

from __future__ import annotations

import os
import random
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.host.others import MEMBER, held_by_another
from tests.host.states import LINEAGE, at
from tests.support.programs import Program, output_of
from uwsgi_waffle.bus.fleet import Fleet, this_host
from uwsgi_waffle.host import layout, processes
from uwsgi_waffle.host.processes import ListenerState, ProcessSlot
from uwsgi_waffle.host.records import HostSnapshot
from uwsgi_waffle.values.snapshot import RefusedValue

FIRST_WORD = layout.SLOTS_OFFSET // layout.WORD_BYTES
REFUSAL = RefusedValue("SIZE", "last good value", "Input should be less than 5")


@pytest.fixture
def host(tmp_path: Path) -> HostSnapshot:
    return HostSnapshot(tmp_path / "snapshot")


def listed(host: HostSnapshot) -> ProcessSlot:
    """Return the only process of a host."""
    (found,) = host.slots.living()
    return found


def pids(host: HostSnapshot) -> list[int]:
    return [process.pid for process in host.slots.living()]


# -- life locks ------------------------------------------------------------------------------------


def test_a_process_is_listed_until_it_is_killed(host: HostSnapshot) -> None:
    """Other processes read what it records; after a SIGKILL its slot is free at once."""
    with Program(MEMBER, host.path) as member:
        assert member.ask() == str(member.pid)
        found = listed(host)
        assert (found.pid, found.role, found.worker, found.master) == (member.pid, "worker", 3, 77)
        assert (found.position, found.follows) == (at(42), True)
        assert (found.listener, found.refused, found.expected_workers) == (ListenerState(), None, 0)
        member.kill()
        assert host.slots.living() == []
    host.register("process")
    assert host.words[FIRST_WORD] == os.getpid(), "it takes the slot of the killed process"


@pytest.mark.parametrize(
    "end",
    ["subprocess.Popen(['sleep', '60'], preexec_fn=lambda: None)", "os.fork() or time.sleep(60)"],
    ids=["runs another program", "is only forked"],
)
def test_a_child_is_not_listed_and_does_not_keep_its_parents_slot(
    host: HostSnapshot, end: str
) -> None:
    """A child has the descriptors and the memory of its parent, but not its locks."""
    program = MEMBER.replace(
        "for line", f"import os, subprocess, time\nchild = {end}\nfor line", 1
    ).replace("print(*(", "print(getattr(child, 'pid', child), *(", 1)
    with Program(program, host.path) as parent:
        child, *found = map(int, parent.ask().split())
        try:
            assert found == pids(host) == [parent.pid]
            parent.kill()
            assert host.slots.living() == []
            os.kill(child, 0)  # it lives on
        finally:
            os.kill(child, 9)


def test_a_process_that_runs_another_program_is_not_listed(host: HostSnapshot) -> None:
    program = MEMBER + "    import os; os.execvp('sh', ['sh', '-c', 'echo other; read line'])\n"
    with Program(program, host.path) as member:
        assert member.ask() == str(member.pid)
        assert member.read() == "other"
        assert host.slots.living() == []


def test_a_forked_child_does_not_write_to_its_parents_slot(host: HostSnapshot) -> None:
    program = """
import os, pathlib, sys
from tests.host.states import at
from uwsgi_waffle.host.records import HostSnapshot
host = HostSnapshot(pathlib.Path(sys.argv[1]))
host.register("process", follows=True)
host.slots.record(at(5))
host.slots.record_expected_workers(4)
pid = os.fork()
if not pid:
    host.slots.record(at(9))
    host.slots.release()
    host.verify()  # no reason to list the child, which has not registered
    assert [p.revision for p in host.slots.living()] == [5]
    host.register("process")
    assert [p.expected_workers for p in host.slots.living()] == [4, 0]
    os._exit(0)
assert not os.waitpid(pid, 0)[1]
print([p.revision for p in host.slots.living()])
"""
    assert output_of(program, host.path) == "[5]"


def test_after_the_loss_of_the_lock_file_processes_list_themselves_again(
    host: HostSnapshot,
) -> None:
    """Each does at its next look, with what it recorded, though another has taken its slot."""
    host.register("worker", 1, 77, follows=True)
    host.slots.record(at(7), (REFUSAL,))
    host.slots.record_expected_workers(2)
    before = listed(host)
    with Program(MEMBER, host.path) as member:
        assert member.ask() == f"{os.getpid()} {member.pid}"
        host.path.with_name("snapshot.processes").unlink()
        assert member.ask("verify") == str(member.pid), "it takes the first slot, which seems free"
        host.slots.record(at(8))
        assert [process.position for process in host.slots.living()] == [at(42)]
        host.slots.record(at(7), (REFUSAL,))
        assert not host.verify(), "the snapshot itself is in place"
        assert set(pids(host)) == {os.getpid(), member.pid}
        assert set(member.ask().split()) == {str(os.getpid()), str(member.pid)}
    found = listed(host)
    assert (found.position, found.refused_count, found.refused) == (at(7), 1, REFUSAL)
    assert (found.role, found.follows, found.expected_workers) == ("worker", True, 2)
    assert found.since >= before.since


def test_a_new_process_is_listed_beside_one_that_still_uses_a_deleted_snapshot(
    host: HostSnapshot,
) -> None:
    """That one holds the lock of a slot that is free in the new file."""
    with Program(MEMBER, host.path) as member:
        assert member.ask() == str(member.pid)
        host.path.unlink()
        host = HostSnapshot(host.path)
        host.register("process")
        assert pids(host) == [os.getpid()]
        assert set(member.ask("verify").split()) == {str(os.getpid()), str(member.pid)}
        assert set(pids(host)) == {os.getpid(), member.pid}


@pytest.mark.parametrize("is_idle", [False, True], ids=["stopped", "idle"])
def test_a_host_proves_nothing_while_a_process_still_uses_a_deleted_snapshot(
    host: HostSnapshot, *, is_idle: bool
) -> None:
    """It serves what it served, and the new file does not list it; it is counted once."""
    host.register("worker", 1, 77, follows=True)
    host.slots.record_expected_workers(2)
    with Program(MEMBER, host.path) as member:
        assert member.ask() == f"{os.getpid()} {member.pid}"
        if not is_idle:
            os.kill(member.pid, signal.SIGSTOP)
        host.path.unlink()
        assert host.verify()
        host.beat()
        found = this_host(host, "here", 3.0)
        assert (found.following, found.served, found.unlisted) == (2, 1, 0)
        assert "have yet to see that its host snapshot was replaced" in found.fault
        os.kill(member.pid, signal.SIGCONT)
        member.ask("verify")
        found = this_host(host, "here", 3.0)
        assert (found.following, found.fault) == (2, "")
        host.path.unlink()
        (laggard,) = Fleet(at(42), (this_host(HostSnapshot(host.path), "here", 3.0),)).missing
        assert "have yet to see" in laggard.reason, "in a file that a command makes, too"
        assert host.verify()
        host.beat()
        member.kill()
        assert this_host(host, "here", 3.0).fault == ""


def test_a_host_proves_nothing_while_a_process_of_it_has_private_memory(
    host: HostSnapshot,
) -> None:
    """It could not have the lock to make a new file, which another process then makes."""
    host.register("worker", 1, follows=True)
    with Program(MEMBER, host.path) as member:
        assert member.ask() == f"{os.getpid()} {member.pid}"
        host.path.unlink()
        with held_by_another(host.path):
            assert member.ask("verify") == str(member.pid)
        assert host.verify()
        host.beat()
        assert "have yet to see" in this_host(host, "here", 3.0).fault
        assert set(member.ask("verify").split()) == {str(os.getpid()), str(member.pid)}
        assert this_host(host, "here", 3.0).fault == ""


def test_a_process_that_is_not_waited_for_keeps_no_host_from_a_proof(host: HostSnapshot) -> None:
    """Such as a shell that was opened before the file was deleted."""
    host.register("worker", 1, follows=True)
    with Program(MEMBER.replace("follows=True", "follows=False"), host.path) as member:
        assert member.ask() == f"{os.getpid()} {member.pid}"
        host.path.unlink()
        assert host.verify()
        host.beat()
        assert this_host(host, "here", 3.0).fault == ""


# -- slots -----------------------------------------------------------------------------------------


def test_registering_again_takes_the_same_slot_though_one_before_it_is_free(
    host: HostSnapshot,
) -> None:
    """A process is listed once, whichever processes came and went before it."""
    with Program(MEMBER, host.path) as member:
        assert member.ask() == str(member.pid)
        host.register("process")
        assert pids(host) == [member.pid, os.getpid()]
    host.register("worker", 2, 7, follows=True)
    found = listed(host)
    assert (found.pid, found.role, found.worker) == (os.getpid(), "worker", 2)
    assert host.words[FIRST_WORD + layout.SLOT_WORDS] == os.getpid()
    host.slots.release()
    assert host.slots.living() == []
    assert not host.verify()
    assert host.slots.living() == [], "a process that has unlisted itself stays unlisted"


def test_one_process_too_many_is_logged_once_and_serves_all_the_same(
    host: HostSnapshot, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "SLOT_COUNT", 1)
    with Program(MEMBER, host.path) as member:
        assert member.ask() == str(member.pid)
        host.register("process", follows=True)
        host.slots.record(at(3))
        assert not host.verify()
        assert len(caplog.records) == 1
        assert "does not show in status" in caplog.text
        assert listed(host).position == at(42)
        member.kill()
        assert not host.verify()
        assert listed(host).position == at(3), "it is listed as soon as a slot is free"


@pytest.mark.parametrize("error", ["", "Connection refused", "ü" * 400])
def test_what_a_listener_records_can_be_read(error: str, host: HostSnapshot) -> None:
    host.register("process", follows=True)
    host.slots.record_listener("polling", error)
    found = listed(host).listener
    assert (found.state, found.error) == ("polling", error[:80])
    assert found.since > 0
    host.slots.record_listener("live")
    assert listed(host).listener.error == ""


@pytest.mark.parametrize("what", ["on_change('A')", "on_change('" + "Ä" * 200 + "')"])
def test_the_callback_that_runs_can_be_read_and_moves_with_the_process(
    what: str, host: HostSnapshot
) -> None:
    host.register("worker", 1, 77, follows=True)
    host.slots.record(at(7), (REFUSAL,))
    assert (listed(host).calling, listed(host).calling_since) == ("", 0.0)
    host.slots.record_callback(what)
    found = listed(host)
    assert what.startswith(found.calling)
    assert found.calling == what or len(found.calling.encode()) >= 100
    assert found.calling_since > 0
    assert (found.refused, found.position) == (REFUSAL, at(7))
    host.path.unlink()
    assert host.verify()
    assert listed(host) == replace(found, since=listed(host).since)
    host.slots.record_callback("")
    assert (listed(host).calling, listed(host).calling_since) == ("", 0.0)


@pytest.mark.parametrize(
    "refusal",
    [REFUSAL, RefusedValue("", "default", ""), RefusedValue("Ä" * 200, "default", "\0" * 300)],
    ids=["short", "the whole", "too long"],
)
def test_what_a_process_refuses_can_be_read(refusal: RefusedValue, host: HostSnapshot) -> None:
    host.register("worker", 1, 77, follows=True)
    host.slots.record(at(7), (refusal, REFUSAL))
    host.slots.record_expected_workers(4)
    found = listed(host)
    assert (found.position, found.refused_count, found.expected_workers) == (at(7), 2, 4)
    assert found.refused is not None
    assert refusal.name.startswith(found.refused.name)
    if len(refusal.name) < 150:
        assert found.refused == refusal
    host.slots.record(at(8))
    assert (listed(host).refused_count, listed(host).refused) == (0, None)


@given(seed=st.integers(), lineage=st.sampled_from([0, 1, int(LINEAGE, 16), layout.WORD_MAX]))
def test_garbage_in_a_slot_does_no_harm(seed: int, lineage: int) -> None:
    """A slot is memory that any process of the user may have written."""
    words = memoryview(bytearray(layout.FILE_BYTES)).cast("Q")
    slots = processes.SlotTable()
    slots.move(words, None)
    slots.introduce("process", 0, 0, follows=True)
    assert slots.claim()
    garbage = random.Random(seed)  # noqa: S311  so that a failure comes again
    for word in range(FIRST_WORD + 1, FIRST_WORD + layout.SLOT_WORDS):
        words[word] = garbage.choice([0, 1, layout.WORD_MAX, garbage.randrange(layout.WORD_MAX)])
    words[FIRST_WORD + 7] = lineage
    (found,) = slots.living()
    assert found.position.exists == bool(lineage)
    assert found.role in processes.ROLES
    assert found.listener.state in processes.LISTENER_STATES
    words[FIRST_WORD] = layout.WORD_MAX
    assert not slots.is_listed()
    slots.record(at(1))
