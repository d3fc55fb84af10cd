"""Several applications in one uWSGI (trap T11): in one interpreter, or in one each."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support import RedisServer
from tests.support.instance import BOOT, LAZY, NAMES, Instance, assert_serves
from tests.support.uwsgi_server import Options

MOUNTS: Options = {
    "module": None,
    "manage-script-name": True,
    "mount": ["/one=tests.apps.whole_numbers:app", "/two=tests.apps.second_mount:app"],
}
SINGLE: Options = {"single-interpreter": True}
#: Both applications, for a mule that inherits none.
BOTH: Options = {
    "waffle-app": "tests.apps.whole_numbers:app tests.apps.whole_numbers:create_app('second')"
}


def update(instance: Instance, mount: str, value: int) -> None:
    """Set all settings of one application through a worker."""
    answer = instance.post(f"/{mount}/update", dict.fromkeys(NAMES, value))
    assert answer.status == 200, answer.text


def read_each(instance: Instance, mount: str) -> list[dict[str, Any]]:
    """Return what each worker serves of one application."""
    numbers = range(1, instance.workers + 1)
    return [instance.read(number, f"/{mount}/") for number in numbers]


@pytest.mark.parametrize("mode", [{}, {**LAZY, **BOTH}], ids=["prefork", "lazy"])
def test_two_mounts_in_one_interpreter_both_work(mode: Options, redis_server: RedisServer) -> None:
    """Each has its own settings, on every worker, and a listener in the one mule."""
    with Instance(
        BOOT, MOUNTS, SINGLE, mode, workers=2, redis=redis_server, ready_path="/one/"
    ) as instance:
        for number in range(1, 11):
            update(instance, "one", number)
            update(instance, "two", 100 + number)
            for mount, value in (("one", number), ("two", 100 + number)):
                for answer in read_each(instance, mount):
                    assert_serves(answer, value)
        instance.wait_for_subscriptions(2)
        instance.wait_until_called_back(10)
        instance.wait_until_called_back(110)
        instance.follow_elsewhere(7)
        assert {answer["values"][NAMES[0]] for answer in read_each(instance, "two")} == {110}
        assert instance.count_in_log("Traceback|single-interpreter = true") == 0


@pytest.mark.parametrize("mode", [{}, LAZY], ids=["prefork", "lazy"])
def test_in_an_interpreter_each_the_first_application_serves_and_the_fix_is_logged(
    mode: Options, redis_server: RedisServer
) -> None:
    """PyO3 modules refuse a second interpreter: one line has the fix; the first mount is right."""
    first: Options = {"waffle-app": "tests.apps.whole_numbers:app"}
    with Instance(
        BOOT, MOUNTS, mode, first, workers=2, redis=redis_server, ready_path="/one/"
    ) as instance:
        assert instance.count_in_log("Set `single-interpreter = true`") == 1
        for number in range(1, 11):
            update(instance, "one", number)
            for answer in read_each(instance, "one"):
                assert_serves(answer, number)
        instance.wait_for_subscriptions()
        instance.follow_elsewhere(77)
        assert instance.get("/two/").status >= 404  # nothing is mounted there
