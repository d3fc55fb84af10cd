"""The plugin of pytest: the fixture ``waffle_override``.

pytest loads it wherever this package is installed, so it imports nothing else of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Protocol

import pytest

__all__ = ["WaffleOverride"]


class WaffleOverride(Protocol):
    """What the fixture ``waffle_override`` gives, for tests with annotations."""

    def __call__(self, **values: object) -> None:
        """Override settings to the end of the test.

        :raises UnknownSetting: a name is not declared
        :raises InvalidSetting: a value, or the whole, is refused
        """


@pytest.fixture
def waffle_override(request: pytest.FixtureRequest) -> Iterator[WaffleOverride]:
    """Override settings of the fixture `app`, by name, to the end of the test.

    As `with waffle.override(...)`: in this thread or task only; nothing is stored or announced.
    """
    try:
        app = request.getfixturevalue("app")
    except pytest.FixtureLookupError as error:
        if error.argname != "app":
            raise
        app = None
    state = getattr(app, "extensions", {}).get("waffleconf")
    if state is None:
        pytest.fail(
            "waffle_override overrides the settings of a fixture named `app`, which returns a "
            "Flask application with a WaffleConf. Write one, or use waffle.override().",
            pytrace=False,
        )
    with ExitStack() as stack:

        def override(**values: object) -> None:
            stack.enter_context(state.override(values))

        yield override
