"""The number that differs in a process and its parent, which every request reads."""

from __future__ import annotations

import os
import sys

import pytest

from uwsgi_waffle.server import forks


@pytest.mark.skipif(sys.platform != "linux", reason="other kernels do not wipe a page")
def test_the_number_is_memory_that_the_kernel_wipes_at_a_fork() -> None:
    """To compare pids would cost each request as much as the rest of the check."""
    number = forks.make_own_number()
    assert isinstance(number, memoryview)
    assert_is_wiped_at_a_fork(number)


def test_on_other_systems_the_number_is_0_after_a_fork_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert_is_wiped_at_a_fork(forks.make_own_number())


def assert_is_wiped_at_a_fork(number: forks.OwnNumber) -> None:
    assert not number[0]
    number[0] = 1
    assert number[0]
    child = os.fork()
    if not child:
        os._exit(1 if number[0] else 0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert number[0]
