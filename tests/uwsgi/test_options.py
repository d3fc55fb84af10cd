"""Our own options of uWSGI, and the other forms of a mule."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import RedisServer, wait_until
from tests.support.instance import BOOT, ELECTED, LAZY, Instance
from tests.support.places import ROOT
from tests.support.uwsgi_server import Options
from tests.support.waiting import SOON_SECONDS

APPS = ROOT / "tests" / "apps"
FILE_MULE: Options = {"mule": APPS / "waffle_mule.py"}
OTHER_MULE = APPS / "other_mule.py"


def assert_follows(instance: Instance) -> None:
    """Fail unless one process listens for all, and idle workers call back after what it hears."""
    instance.wait_for_subscriptions()
    instance.follow_elsewhere(7)
    assert instance.subscriptions == 1


MULES: dict[str, tuple[Options, ...]] = {
    "file": (FILE_MULE, {"shared-import": "uwsgi_waffle.boot"}),
    "file-lazy": (FILE_MULE, {"shared-import": "uwsgi_waffle.boot"}, LAZY),
    "file-without-boot": (FILE_MULE,),
    "file-by-number": (FILE_MULE, {"shared-import": "uwsgi_waffle.boot", "waffle-mule": 1}),
    "second-of-two": (BOOT, {"mule": [OTHER_MULE, "waffle"], "waffle-mule": 2}),
    "first-of-two": (BOOT, {"mule": ["waffle", OTHER_MULE], "waffle-mule": 1}),
    "of-a-number": (ELECTED, {"mules": 2, "waffle-mule": 2}),
    "commented": (ELECTED, {"mule": "waffle   ; to uWSGI this is a part of the name"}),
    "signal": (BOOT, {"waffle-signal": 42}),
    "signal-lazy": (BOOT, LAZY, {"waffle-signal": 42}),
}


@pytest.mark.parametrize("form", MULES)
def test_each_form_of_a_mule_listens(form: str, redis_server: RedisServer) -> None:
    """One subscription, idle workers woken, and a foreign mule left to its own program."""
    with Instance(*MULES[form], workers=2, redis=redis_server) as instance:
        assert_follows(instance)
        if "of-two" in form:
            number = 1 if form.startswith("second") else 2
            other = instance.mule_pids()[number - 1]
            instance.wait_for_log(f"the other mule runs in {other}")
        signal = 42 if form.startswith("signal") else 177
        assert instance.count_in_log(f"signum {signal} registered .*active-workers") == 1
        assert instance.count_in_log("Traceback|OOOPS|DAMN") == 0


@pytest.mark.parametrize(
    "config", [{"WAFFLE_MULTIPROC": "false"}, {"WAFFLE_LISTENER": "none"}], ids=str
)
def test_a_mule_does_not_listen_where_no_process_should(
    config: dict[str, str], redis_server: RedisServer
) -> None:
    """It logs that once; workers of the instance are still woken, and requests right."""
    with Instance(BOOT, workers=2, redis=redis_server, environment=config) as instance:
        instance.wait_for_log("the mule listens for no application")
        instance.wait_until_called_back(instance.set_all())
        assert instance.subscriptions == 0
        instance.assert_right()


WITHOUT_LISTENER: dict[str, tuple[Options, ...]] = {
    "prefork": (),
    "lazy-apps": (LAZY,),
    "threads": ({"threads": 4},),
    "no-master": ({"master": False},),
    "gevent-early": ({"gevent": 20, "gevent-early-monkey-patch": True},),
    "gevent-late": ({"gevent": 20, "gevent-monkey-patch": True},),
    "gevent-unpatched": ({"gevent": 20},),
}


@pytest.mark.parametrize("mode", WITHOUT_LISTENER)
def test_without_a_listener_requests_find_what_another_host_changed(
    mode: str, redis_server: RedisServer
) -> None:
    """Each once per poll, though uWSGI may keep Python's threads from running between requests."""
    environment = {"WAFFLE_MULTIPROC": "false", "WAFFLE_POLL_SECONDS": "0.2"}
    options = WITHOUT_LISTENER[mode]
    with (
        Instance(
            *options,
            workers=1 if mode == "no-master" else 2,
            redis=redis_server,
            environment=environment,
        ) as here,
        here.elsewhere() as update,
    ):
        for value in (2001, 2002, 2003):
            update(value)
            wait_until(
                lambda: all({*a["values"].values()} == {value} for a in here.read_each()),  # noqa: B023
                SOON_SECONDS,
                "the change is seen",
            )
        assert here.count_in_log("Traceback|OOOPS|DAMN") == 0


def test_a_spooler_and_a_foreign_mule_are_left_to_their_work(redis_server: RedisServer) -> None:
    """They hold the application, listed among the processes, and neither listens nor is waited for.

    The waffle mule and the workers follow.
    """
    instance = Instance(
        BOOT,
        {"mule": ["waffle", OTHER_MULE], "waffle-mule": 1, "spooler": "%dspool"},
        workers=2,
        redis=redis_server,
    )
    (instance.directory / "spool").mkdir()
    with instance:
        assert_follows(instance)
        listed = {(role, number) for role, number, _, _ in instance.read(1, "/state")["processes"]}
        assert listed == {("worker", 1), ("worker", 2), ("mule", 1), ("mule", 2), ("spooler", 0)}
        following = {
            (role, number)
            for role, number, _, follows in instance.read(1, "/state")["processes"]
            if follows
        }
        assert following == {("worker", 1), ("worker", 2), ("mule", 1)}
        assert instance.count_in_log("Traceback|OOOPS|DAMN") == 0


APPLICATIONS: dict[str, tuple[Options, ...]] = {
    "module-and-callable": ({"module": "tests.apps.whole_numbers", "callable": "app"},),
    "module-alone": ({"module": "tests.apps.whole_numbers"},),
    "factory": ({"module": "tests.apps.whole_numbers:create_app()"},),
    "wsgi-file": ({"module": None, "wsgi-file": APPS / "whole_numbers.py"},),
    "mount": ({"module": None, "mount": "/=tests.apps.whole_numbers:app"},),
    "waffle-app": (
        {"module": "tests.apps.hooked:app", "waffle-app": "tests.apps.whole_numbers:app"},
    ),
    "waffle-app-factory": ({"waffle-app": "tests.apps.whole_numbers:create_app()"},),
}


@pytest.mark.parametrize("form", APPLICATIONS)
def test_a_lazy_mule_finds_the_application(form: str, redis_server: RedisServer) -> None:
    """Where uWSGI loads no application in the mule, it loads the one that the workers serve."""
    with Instance(
        BOOT,
        LAZY,
        *APPLICATIONS[form],
        workers=2,
        redis=redis_server,
        environment={"TEST_HOOKS": "app"},
    ) as instance:
        assert_follows(instance)
        assert instance.count_in_log("the mule could not load|found no application") == 0


def test_without_a_master_one_worker_wakes_the_other_and_logs_the_fix(
    redis_server: RedisServer,
) -> None:
    """There are no signals, so a thread of each worker waits; one log line names the option."""
    with Instance({"master": False}, workers=2, redis=redis_server, separate=False) as instance:
        instance.assert_right(5)
        instance.wait_for_subscriptions(1)
        instance.follow_elsewhere(7)
        assert instance.count_in_log("without a master.*Set `master = true`") == 1


MISSPELT: Options = {**BOOT, "shared-import": "uwsgi_waffle.bot"}


@pytest.mark.parametrize(
    ("options", "logged"),
    [((LAZY,), 1), ((MISSPELT, LAZY), 1), ((MISSPELT,), 0)],
    ids=["lazy", "lazy-misspelt", "prefork-misspelt"],
)
def test_without_boot_every_worker_follows_and_the_fix_is_logged_once(
    options: tuple[Options, ...], logged: int, redis_server: RedisServer
) -> None:
    """Prefork installs at the app's import; lazy workers wake each other without a signal."""
    with Instance(*options, workers=2, redis=redis_server) as instance:
        instance.wait_for_subscriptions(1)
        instance.follow_elsewhere(7)
        assert instance.count_in_log("Add `shared-import = uwsgi_waffle.boot`") == logged


def test_a_taken_signal_is_logged_and_the_next_request_is_right(tmp_path: Path) -> None:
    """The other handler stays; without a signal each request still sees each change."""
    (tmp_path / "taken.py").write_text(
        "import uwsgi\nuwsgi.register_signal(177, 'workers', lambda number: None)\n"
    )
    taken: Options = {
        "pythonpath": tmp_path,
        "shared-import": ["taken", "uwsgi_waffle.boot"],
    }
    with Instance(BOOT, taken, workers=2) as instance:
        assert instance.count_in_log("signal 177 could not be registered.*`waffle-signal`") == 1
        instance.assert_right(10)
