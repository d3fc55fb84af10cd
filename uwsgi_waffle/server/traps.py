"""Set-ups of uWSGI that cannot work as meant: each with what to write instead.

One list serves the start-up log and ``flask waffle doctor``. Each finding was measured on uWSGI
2.0.31; standard library only, as the uWSGI master reads it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass

from . import _uwsgi

__all__ = ["Finding", "find"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that does not work as meant.

    :ivar code: short and stable, for tests and for ``--json``
    :ivar fact: what was found, and its consequence
    :ivar fix: what to do about it
    :ivar is_wrong: false for what may be intended
    """

    code: str
    fact: str
    fix: str
    is_wrong: bool = True

    def __str__(self) -> str:
        return f"{self.fact} {self.fix}"


def find(server: _uwsgi.Server) -> Iterator[Finding]:
    """Yield what is wrong with the options of the running instance."""
    has_mule = server.option("mule") is not None or server.option("mules") is not None
    if has_mule and server.enabled("py-call-uwsgi-fork-hooks"):
        yield Finding(
            "fork-hooks-with-mule",
            "py-call-uwsgi-fork-hooks crashes every mule of uWSGI 2.0, again and again.",
            "Remove that option, or the mule: an elected worker listens then.",
        )
    if sys.version_info >= (3, 13) and server.enabled("py-call-osafterfork"):
        yield Finding(
            "osafterfork-on-3.13",
            "py-call-osafterfork aborts every worker and mule on Python 3.13 and later.",
            "Remove that option; uwsgi_waffle does not need it.",
        )
    mule = server.option("mule") or ""
    if ":" in mule and server.enabled("lazy-apps"):
        yield Finding(
            "callable-mule-with-lazy-apps",
            f"mule = {mule} crashes again and again under lazy-apps (unbit/uwsgi#1746).",
            "Write `mule = waffle` with `shared-import = uwsgi_waffle.boot`, or name a .py file.",
        )
    if _is_our_module(mule):
        yield Finding(
            "mule-names-module",
            f"mule = {mule} is a mule without a program: uWSGI imports only 'module:function' and "
            "'.py' files.",
            "Write `mule = waffle`.",
        )
    yield from _find_late(server, has_mule=has_mule)


def _find_late(server: _uwsgi.Server, *, has_mule: bool) -> Iterator[Finding]:
    """Yield what only makes idle workers see changes later."""
    if server.enabled("thunder-lock") and (server.number("threads") or 0) > 1:
        yield Finding(
            "thunder-lock-with-threads",
            "thunder-lock with threads keeps idle workers from running signal handlers: callbacks "
            "may run late there. Requests still see each change at once.",
            "Remove thunder-lock, which one listening process does not need.",
        )
    # With a mule no worker is to listen.
    if not server.runs_threads and server.version < (2, 0, 27) and not has_mule:
        yield Finding(
            "no-threads",
            "This uWSGI runs Python threads only while a request runs, so a worker cannot listen.",
            "Set `enable-threads = true`, or use `mule = waffle`.",
        )
    if server.option("mount") is not None and not server.enabled("single-interpreter"):
        yield Finding(
            "several-interpreters",
            "uWSGI gives each mount after the first an interpreter of its own, where pydantic, "
            "like every PyO3 module, refuses to load; that application then cannot start.",
            "Set `single-interpreter = true` if there are several mounts.",
        )


def _is_our_module(mule: str) -> bool:
    return mule.startswith("uwsgi_waffle") and ":" not in mule and not mule.endswith(".py")
