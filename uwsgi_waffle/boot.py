"""What the uWSGI master imports, as ``shared-import = uwsgi_waffle.boot``.

Standard library only: this runs before ``gevent-early-monkey-patch``.
"""

from __future__ import annotations

from .server import hooks

__all__ = ["install"]


def install() -> None:
    """Set up the instance; only the first call in a master, before its first fork, does anything.

    Importing this module calls it. The extension calls it too, for a prefork instance without
    ``shared-import``.
    """
    hooks.install(_run_mule)


def _run_mule() -> None:
    from .mule import main

    main()


install()
