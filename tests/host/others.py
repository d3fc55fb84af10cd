"""What else is on a host: other processes, and host snapshots that are not as they should be."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support import require
from tests.support.programs import Program
from uwsgi_waffle.host import layout

__all__ = ["MEMBER", "give_to_another_user", "held_by_another", "write_word"]

#: Lists itself, and prints the processes that it finds for each line that it is sent.
MEMBER = """
import pathlib, sys
from tests.host.states import at
from uwsgi_waffle.host.records import HostSnapshot
host = HostSnapshot(pathlib.Path(sys.argv[1]))
host.register("worker", 3, 77, follows=True)
host.slots.record(at(42))
for line in sys.stdin:
    if line == "verify\\n":
        host.verify()
    print(*(process.pid for process in host.slots.living()), flush=True)
"""

#: Takes a lock, prints whether it holds it, and keeps it until its input ends.
HOLDER = """
import pathlib, sys
from uwsgi_waffle.host.locks import locked
with locked(pathlib.Path(sys.argv[1]), sys.argv[2]) as held:
    print(held, flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_by_another(path: Path, suffix: str = ".lock") -> Iterator[Program]:
    """Have another process hold a lock."""
    with Program(HOLDER, path, suffix) as holder:
        assert holder.read() == "True"
        yield holder


def write_word(path: Path, word: int, value: int) -> None:
    """Write one word of the header of a host snapshot."""
    with path.open("r+b") as file:
        file.seek(word * layout.WORD_BYTES)
        file.write(value.to_bytes(layout.WORD_BYTES, sys.byteorder))


def give_to_another_user(path: Path) -> None:
    """Give a file away, as root can."""
    require(os.geteuid() == 0, "the right to give a file away (root)")
    os.chown(path, 65534, 65534)
