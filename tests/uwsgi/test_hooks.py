"""uWSGI's one post-fork hook, which others set, chain and overwrite (trap T9)."""

from __future__ import annotations

import pytest

from tests.support import RedisServer
from tests.support.instance import BOOT, LAZY, Instance
from tests.support.uwsgi_server import Options

HOOKED: Options = {"module": "tests.apps.hooked:app"}
#: Loads the decorators in the master, before boot.
DECORATORS_FIRST: Options = {"shared-import": ["uwsgidecorators", "uwsgi_waffle.boot"]}
#: Our hook runs first, so that no other one can keep it from running.
CASES: dict[str, tuple[str, tuple[Options, ...]]] = {
    "decorators-before-the-app": ("decorators app", ()),
    "decorators-after-the-app": ("app decorators", ()),
    "decorators-before-boot": ("app decorators", (DECORATORS_FIRST,)),
    "another-fails": ("failing decorators app", ()),
    "another-fails-after": ("app failing", ()),
    "without-boot": ("app decorators failing", ({"shared-import": None},)),
    "without-boot-decorators-first": ("decorators failing app", ({"shared-import": None},)),
    "lazy": ("decorators failing app", (LAZY,)),
    "lazy-overwritten": ("app overwrite", (LAZY,)),
}


@pytest.mark.parametrize("case", CASES)
def test_hooks_of_others_neither_stop_ours_nor_are_stopped(
    case: str, redis_server: RedisServer
) -> None:
    """Workers and mule are set up before any request, whatever else hooks in, and when."""
    steps, options = CASES[case]
    with Instance(
        BOOT,
        HOOKED,
        *options,
        workers=2,
        redis=redis_server,
        environment={"TEST_HOOKS": steps},
        ready_path=None,
    ) as instance:
        # A worker that loads the application later starts with the value, and calls nothing back.
        instance.wait_for_log("WSGI app 0 .* ready", 2 if LAZY in options else 1)
        instance.wait_for_subscriptions()
        instance.follow_elsewhere(7)
        assert {state["place"] for state in instance.states()} == {"mule"}
        if steps.endswith("decorators"):
            # In the two workers; not in the mule, whose whole life is the first hook of the chain.
            assert instance.count_in_log("a hook of another ran") >= 2


def test_the_first_request_replaces_an_overwritten_hook(redis_server: RedisServer) -> None:
    """Each worker sets itself up at its first request; one of them listens, not the mule."""
    with Instance(
        BOOT,
        HOOKED,
        workers=2,
        redis=redis_server,
        environment={"TEST_HOOKS": "app overwrite"},
    ) as instance:
        assert instance.count_in_log("a hook of another ran") == 3
        instance.assert_right()
        instance.wait_for_subscriptions()
        instance.follow_elsewhere(7)
        assert instance.count_in_log("uwsgi.post_fork_hook was overwritten.*postfork") == 1
