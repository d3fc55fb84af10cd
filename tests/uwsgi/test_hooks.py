"""uWSGI's one post-fork hook, which others set, chain and overwrite (trap T9)."""

from __future__ import annotations

import pytest

from tests.support import RedisServer, wait_until
from tests.support.uwsgi_server import Options
from tests.uwsgi.instance import BOOT, LAZY, Instance, assert_serves

HOOKED: Options = {"module": "tests.apps.hooked:app"}
#: Loads the decorators in the master, before our own turn there.
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
    """Workers and mule are set up, before any request, whoever else hooks in, and when."""
    steps, options = CASES[case]
    with Instance(
        BOOT,
        HOOKED,
        *options,
        workers=2,
        redis_url=redis_server.url,
        environment={"TEST_HOOKS": steps},
        ready_path=None,
    ) as instance:
        # A worker that loads the application later starts with the value, and is told nothing.
        instance.wait_for_log("WSGI app 0 .* ready", 2 if LAZY in options else 1)
        wait_until(lambda: redis_server.subscribers(instance.channel) == 1, 10.0, "a listener")
        with instance.elsewhere() as update:
            instance.wait_until_told(update(7))
        assert {state["place"] for state in instance.states()} == {"mule"}
        if steps.endswith("decorators"):
            # Two workers and, as it inherits the chain, no mule of ours, whose life is a hook.
            assert instance.count_in_log("a hook of another ran") >= 2


def test_an_overwritten_hook_is_made_up_for_by_the_first_request(
    redis_server: RedisServer,
) -> None:
    """Each worker sets itself up at its first request; one of them listens, not the mule."""
    with Instance(
        BOOT,
        HOOKED,
        workers=2,
        redis_url=redis_server.url,
        environment={"TEST_HOOKS": "app overwrite"},
    ) as instance:
        assert instance.count_in_log("a hook of another ran") == 3
        value = instance.update()
        for answer in instance.read_each():
            assert_serves(answer, value)
        wait_until(lambda: redis_server.subscribers(instance.channel) == 1, 10.0, "a listener")
        with instance.elsewhere() as update:
            instance.wait_until_told(update(7))
        assert instance.count_in_log("uwsgi.post_fork_hook was overwritten.*postfork") == 1
