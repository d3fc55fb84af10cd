"""What a process serves: swapped as one, and within a lineage never for an earlier revision."""

from __future__ import annotations

import logging
import signal
import threading
import time
from dataclasses import replace

import pytest

from tests.conftest import Apps, state_of
from tests.host.others import held_by_another
from tests.support.waiting import SOON_SECONDS
from uwsgi_waffle.host import layout
from uwsgi_waffle.host.locks import LOCK_SECONDS
from uwsgi_waffle.process.serving import Serving
from uwsgi_waffle.values.position import NOWHERE, Position
from uwsgi_waffle.values.snapshot import Snapshot

MINE, OTHER = "a" * 16, "b" * 16
#: Seconds that what waits for nothing takes at most, on a busy machine.
PROMPT_SECONDS = 1.0
HERE = Position(MINE, 5, "1" * 16)


@pytest.fixture
def serving(apps: Apps) -> Serving:
    return state_of(apps(WAFFLE_CONFS={"SIZE": {"default": 1}})[0]).serving


def snapshot_at(serving: Serving, position: Position) -> Snapshot:
    return replace(serving.current, position=position)


@pytest.mark.parametrize(
    ("position", "is_swapped"),
    [
        (HERE, False),
        (Position(MINE, 4, "2" * 16), False),
        (Position(MINE, 6, "2" * 16), True),
        (Position(MINE, 5, "2" * 16), True),  # SQL's state of that revision wins
        (Position(OTHER, 1, "2" * 16), True),
    ],
)
def test_a_process_never_goes_back_within_a_lineage(
    *, serving: Serving, position: Position, is_swapped: bool
) -> None:
    serving.swap(snapshot_at(serving, HERE))
    first, second = serving.current, snapshot_at(serving, position)
    assert serving.swap(second) is is_swapped
    assert serving.current is (second if is_swapped else first)


def test_threads_that_swap_at_once_never_take_a_process_back(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The callbacks of each swap are queued once, in order."""
    swaps: list[tuple[int, int]] = []

    def note(old: Snapshot, new: Snapshot) -> None:
        swaps.append((old.position.revision, new.position.revision))

    monkeypatch.setattr(serving, "_swapped", note)
    serving.swap(snapshot_at(serving, Position(MINE, 0)))
    swaps.clear()
    snapshots = [snapshot_at(serving, Position(MINE, number, "1" * 16)) for number in range(1, 401)]
    start = threading.Barrier(8)
    went_back: list[tuple[int, int, int]] = []

    def swap(offset: int) -> None:
        start.wait()
        seen = 0
        for snapshot in snapshots[offset::8]:
            serving.swap(snapshot)
            now = serving.current.position.revision
            if now < seen or now < snapshot.position.revision:
                went_back.append((seen, now, snapshot.position.revision))
            seen = now

    threads = [threading.Thread(target=swap, args=(offset,)) for offset in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert went_back == []
    assert serving.current.position.revision == 400
    assert [old for old, _ in swaps] == [0, *(new for _, new in swaps[:-1])]
    assert all(old < new for old, new in swaps)


def test_threads_that_swap_at_once_record_the_later_state_last(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the process would count as behind until the next change."""
    slots = serving._host.slots  # noqa: SLF001
    recorded: list[Position] = []
    later = snapshot_at(serving, HERE.next())
    other = threading.Thread(target=serving.swap, args=(later,))

    def record_late(position: Position, *_: object) -> None:
        if not recorded and not other.ident:
            other.start()
            other.join(0.2)
        recorded.append(position)

    monkeypatch.setattr(slots, "record", record_late)
    serving.swap(snapshot_at(serving, HERE))
    other.join()
    assert recorded[-1] == later.position


def test_a_child_forked_while_a_thread_swapped_can_swap(serving: Serving) -> None:
    serving._lock.acquire()  # noqa: SLF001  as another thread of the parent may have
    serving.after_fork()
    assert serving.current.position != NOWHERE
    assert serving.swap(snapshot_at(serving, serving.current.position.next()))


def test_a_handler_of_the_log_may_read_settings_while_a_process_swaps(apps: Apps) -> None:
    """Such as one that writes the name of the site into each line."""
    confs = {"SIZE": {"default": 1}, "NAME": {"default": "Waffle"}}
    _, writer = apps(WAFFLE_CONFS=confs)
    app, waffle = apps(WAFFLE_CONFS={**confs, "SIZE": {"default": 1, "le": 5}})
    waffle.on_change("NAME")(lambda: None)
    assert waffle.settings.SIZE == 1
    lines: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(f"{waffle.settings.NAME}: {record.getMessage()}")

    handler, logger = Handler(), logging.getLogger("uwsgi_waffle")
    logger.addHandler(handler)
    try:
        writer.update({"SIZE": 9, "NAME": "New"})
        swapping = threading.Thread(target=state_of(app).serving.catch_up, daemon=True)
        swapping.start()
        swapping.join(SOON_SECONDS)
        assert not swapping.is_alive()
    finally:
        logger.removeHandler(handler)
    assert any(line.startswith("New: ") and "SIZE" in line for line in lines)


def test_requests_see_each_change_at_once_while_a_stopped_process_holds_the_lock(
    apps: Apps,
) -> None:
    """They ask SQL, and wait neither for the lock nor for a poll; then all is as before."""
    _, writer = apps(WAFFLE_CONFS={"SIZE": {"default": 1}}, WAFFLE_POLL_SECONDS=3600)
    readers = [
        apps(WAFFLE_CONFS={"SIZE": {"default": 1}}, WAFFLE_POLL_SECONDS=3600) for _ in range(2)
    ]
    for app, waffle in readers:
        app.add_url_rule("/", "size", lambda waffle=waffle: f"{waffle.settings.SIZE}")

    def served() -> list[int]:
        return [int(app.test_client().get("/").text) for app, _ in readers]

    host = state_of(readers[0][0]).host
    writer.update({"SIZE": 2})
    assert served() == [2, 2]
    with held_by_another(host.path) as holder:
        holder.process.send_signal(signal.SIGSTOP)
        for value in (3, 4):
            began = time.monotonic()
            writer.update({"SIZE": value})
            assert time.monotonic() - began < LOCK_SECONDS + PROMPT_SECONDS
            began = time.monotonic()
            assert served() == [value, value]
            assert served() == [value, value]
            assert time.monotonic() - began < PROMPT_SECONDS
    assert host.is_shared
    writer.update({"SIZE": 5})
    assert served() == [5, 5]
    assert host.read() is not None


def test_what_is_published_while_sql_is_asked_in_vain_is_not_missed(
    apps: Apps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host snapshot is in doubt when a process looks, and is right again right after."""
    other, writer = apps(WAFFLE_CONFS={"SIZE": {"default": 1}})
    app, waffle = apps(WAFFLE_CONFS={"SIZE": {"default": 1}}, WAFFLE_POLL_SECONDS=3600)
    state = state_of(app)
    assert waffle.settings.SIZE == 1
    read = state.host.read
    monkeypatch.setattr(state.serving._asker, "reconcile", lambda: None)  # noqa: SLF001

    def read_too_early() -> None:
        monkeypatch.setattr(state.host, "read", read)
        state_of(other).reconciler.reconcile()

    writer.update({"SIZE": 2})
    state.host.words[layout.SEQUENCE_WORD] = layout.IN_DOUBT | 5
    monkeypatch.setattr(state.host, "read", read_too_early)
    state.serving.catch_up()
    assert waffle.settings.SIZE == 2
