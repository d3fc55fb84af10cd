"""The app of `tests.apps.whole_numbers` without callbacks: it notes when a process serves a change.

`tests.bench.propagation` measures by it what compares with a bare chain, which calls nothing back.
"""

from __future__ import annotations

from tests.apps.notes import keep_journal
from tests.apps.whole_numbers import NAMES, app, waffle
from uwsgi_waffle.process.serving import Serving
from uwsgi_waffle.values.snapshot import Snapshot

__all__ = ["app"]

_swap = Serving.swap


def _swap_and_note(serving: Serving, snapshot: Snapshot) -> bool:
    old = getattr(serving.current.settings, NAMES[0])
    is_served = _swap(serving, snapshot)
    if is_served:
        keep_journal(old, getattr(snapshot.settings, NAMES[0]))
    return is_served


vars(waffle)["_common"].callbacks.handlers.clear()
setattr(Serving, _swap.__name__, _swap_and_note)
