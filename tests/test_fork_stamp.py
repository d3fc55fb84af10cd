"""The stamp that tells a process from its parent, which every request looks at."""

from __future__ import annotations

import os
import sys

import pytest

from uwsgi_waffle import forks


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no kernel wipes a page")
def test_the_stamp_is_memory_that_the_kernel_wipes_at_a_fork() -> None:
    """Not a comparison of pids, which costs each request as much as all else of the check."""
    stamp = forks.make_stamp()
    assert isinstance(stamp, memoryview)
    assert_is_wiped_at_a_fork(stamp)


def test_the_stamp_of_other_systems_is_wiped_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert_is_wiped_at_a_fork(forks.make_stamp())


def assert_is_wiped_at_a_fork(stamp: forks.OwnerStamp) -> None:
    assert not stamp[0]
    stamp[0] = 1
    assert stamp[0]
    child = os.fork()
    if not child:
        os._exit(1 if stamp[0] else 0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert stamp[0]
