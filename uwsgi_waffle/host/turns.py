"""Which process of this host asks SQL: one at a time, however many want to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from .locks import locked
from .records import HostSnapshot

__all__ = ["asking", "only_reader"]


@contextmanager
def asking(host: HostSnapshot, every_seconds: float) -> Iterator[bool]:
    """Yield whether this process should ask SQL now: one process at a time, once an interval.

    For hosts without a listener.
    """
    if host.was_asked_within(every_seconds):
        yield False
        return
    with only_reader(host, wait_seconds=0) as is_only_reader:
        if not is_only_reader or host.was_asked_within(every_seconds):
            yield False
            return
        host.note_asked()
        yield True


@contextmanager
def only_reader(host: HostSnapshot, *, wait_seconds: float) -> Iterator[bool]:
    """Hold the right to read SQL for this host, and yield whether it is held.

    :param wait_seconds: how long to wait for it at most, as its holder may hang
    """
    is_held = True
    with ExitStack() as stack:
        if host.is_shared:
            lock = locked(host.path, ".reader", wait_seconds=wait_seconds)
            # Where the lock cannot be opened, this process reads for itself.
            with suppress(OSError):
                is_held = stack.enter_context(lock)
        yield is_held
