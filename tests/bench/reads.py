"""What a read and a request cost in one process, beside `current_app.config` and bare Flask.

::

    python -m tests.bench.reads
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from flask import Flask, current_app
from werkzeug.test import EnvironBuilder, run_wsgi_app

from tests.bench.table import by_turns, print_table
from tests.support import RedisServer, wait_until
from uwsgi_waffle import WaffleConf

#: Many short rounds, so that what else the machine does meets both of a pair.
ROUNDS = 300
READS = 1_000
REQUESTS = 20
VIEW = "view"


def main() -> None:
    """Print both tables, without and with a live listener."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    for multiproc in (False, True):
        with ExitStack() as stack:
            redis_server = stack.enter_context(RedisServer()) if multiproc else None
            app, waffle = stack.enter_context(_application(redis_server))
            bare = _with_view(Flask("bare"))
            _request(app)()  # starts the listener
            if redis_server is not None:
                _wait_until_listening(redis_server)
            how = "with a listener" if multiproc else "without a listener"
            _compare_reads(app, waffle, how)
            _compare_requests(app, bare, how)


def _wait_until_listening(redis_server: RedisServer) -> None:
    wait_until(lambda: redis_server.subscribers() == 1, 10.0, "the listener listens")


@contextmanager
def _application(redis_server: RedisServer | None) -> Iterator[tuple[Flask, WaffleConf[Any]]]:
    with tempfile.TemporaryDirectory() as directory:
        app = Flask("waffled")
        app.config.update(
            WAFFLE_CONFS={"SITENAME": {"default": "Waffle"}},
            WAFFLE_DATABASE_URI=f"sqlite:///{directory}/waffle.db",
            WAFFLE_SNAPSHOT_PATH=f"{directory}/snapshot",
            WAFFLE_MULTIPROC=redis_server is not None,
        )
        if redis_server is not None:
            app.config["WAFFLE_REDIS_URL"] = redis_server.url
        waffle = WaffleConf(app)
        _with_view(app)
        yield app, waffle
        state = app.extensions["waffleconf"]
        if state.environment is not None:
            state.environment.stop(5.0)
        state.retire()  # while its folder exists


def _with_view(app: Flask) -> Flask:
    app.add_url_rule("/", VIEW, lambda: "hello")
    return app


def _request(app: Flask) -> Callable[[], None]:
    """Return a function that sends one GET through the app."""
    environ = EnvironBuilder("/").get_environ()

    def send() -> None:
        body, _, _ = run_wsgi_app(app, dict(environ))
        for _ in body:
            pass

    return send


def _compare_reads(app: Flask, waffle: WaffleConf[Any], how: str) -> None:
    """Compare reads within one request, and in the places outside one."""
    reads: dict[str, Callable[[], object]] = {
        'current_app.config["X"]': lambda: current_app.config["SITENAME"],
        "waffle.settings.X": lambda: waffle.settings.SITENAME,
        'app.config["X"]': lambda: app.config["SITENAME"],
    }

    def compare(where: str) -> str:
        found = by_turns(reads, ROUNDS, READS)
        first = found['current_app.config["X"]']
        print_table(
            f"read in {where} {how}",
            ("read", "ns", "ratio"),
            [
                (name, f"{statistics.median(times) * 1e9:.0f}", _ratio(times, first))
                for name, times in found.items()
            ],
        )
        return "done"

    # Through the whole WSGI application, whose wrapper pins the snapshot.
    kept = app.view_functions[VIEW]
    app.view_functions[VIEW] = lambda: compare("a request")
    try:
        _request(app)()
    finally:
        app.view_functions[VIEW] = kept
    with app.app_context():
        compare("an application context")
    with app.test_request_context():
        compare("test_request_context")


def _compare_requests(app: Flask, bare: Flask, how: str) -> None:
    found = by_turns({"bare Flask": _request(bare), "with waffle": _request(app)}, ROUNDS, REQUESTS)
    first = found["bare Flask"]
    print_table(
        f"request {how}",
        ("request", "µs", "ratio"),
        [
            (name, f"{statistics.median(times) * 1e6:.1f}", _ratio(times, first))
            for name, times in found.items()
        ],
    )


def _ratio(times: list[float], first: list[float]) -> str:
    """Return the median of the ratios of pairs measured together."""
    ratios = [mine / other for mine, other in zip(times, first, strict=True)]
    return f"{statistics.median(ratios):.3f}"


if __name__ == "__main__":
    main()
