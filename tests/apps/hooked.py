"""The application of `whole_numbers`, with what others do to uWSGI's post-fork hook.

``TEST_HOOKS`` lists the steps in order; ``app`` loads the application.
"""

from __future__ import annotations

import os
from importlib import import_module

import uwsgi
from flask import Flask

app: Flask


def load_app() -> None:
    """Load the application now."""
    globals()["app"] = import_module("tests.apps.whole_numbers").app


def import_decorators() -> None:
    """Import what overwrites the hook, and add one that is chained."""
    import_module("uwsgidecorators").postfork(say)


def add_failing() -> None:
    """Add a hook that raises to the chain."""
    import_module("uwsgidecorators").postfork(fail)


def overwrite() -> None:
    """Overwrite the hook as one must not."""
    uwsgi.post_fork_hook = say


def say() -> None:
    """Leave a trace that this hook ran."""
    print(f"a hook of another ran in {os.getpid()}", flush=True)  # noqa: T201  goes to the log


def fail() -> None:
    """Raise, which ends uWSGI's chain."""
    message = "a hook of another fails"
    raise RuntimeError(message)


STEPS = {
    "app": load_app,
    "decorators": import_decorators,
    "failing": add_failing,
    "overwrite": overwrite,
}
for step in os.environ["TEST_HOOKS"].split():
    STEPS[step]()
