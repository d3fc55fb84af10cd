"""An application of ``under_uwsgi`` for a second mount, in a namespace of its own."""

from __future__ import annotations

from tests.apps.under_uwsgi import create_app

app = create_app("second")
