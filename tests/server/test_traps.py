"""Options of uWSGI that cannot work as meant, of which this machine has no uWSGI to show them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from uwsgi_waffle.server import traps
from uwsgi_waffle.server._uwsgi import Server


@pytest.mark.parametrize(
    ("version", "has_threads", "options", "is_found"),
    [
        ((2, 0, 26), 0, {}, True),
        ((2, 0, 26), 0, {"mule": b"waffle"}, False),
        ((2, 0, 26), 1, {"enable-threads": True}, False),
        ((2, 0, 27), 0, {}, False),  # its threads run whatever the options say
    ],
)
def test_threads_that_stand_still_are_named_where_a_worker_is_to_listen(
    *, version: tuple[int, int, int], has_threads: int, options: dict[str, object], is_found: bool
) -> None:
    """With a mule none is."""
    server = Server(SimpleNamespace(opt=options, has_threads=has_threads, version_info=version))
    assert ("no-threads" in {found.code for found in traps.find(server)}) is is_found
