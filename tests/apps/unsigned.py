"""The app of `tests.apps.whole_numbers`, whose signatures cost nothing and prove nothing.

`tests.bench.propagation` measures by it what signing costs.
"""

from __future__ import annotations

from uwsgi_waffle.bus import signing

vars(signing)["_digest"] = lambda key, text: "unsigned"  # noqa: ARG005  the signature of it

from tests.apps.whole_numbers import app  # noqa: E402  it signs as soon as it is made

__all__ = ["app"]
