"""An application of `whole_numbers` for a second mount, in a namespace of its own."""

from __future__ import annotations

from tests.apps.whole_numbers import create_app

app = create_app("second")
