"""Damaged inputs from people: bodies of the JSON interface, forms of the pages, arguments.

Each is answered, and every setting is valid whatever came before.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from werkzeug.datastructures import MultiDict

from tests.admin.visitor import HERE, Visitor
from tests.apps.admin_pages import Settings, make_app
from tests.conftest import state_of
from tests.machine.damage import ODD, damaged, text_of
from tests.support.command_line import run_in_process

#: One input of so many is followed by a look at all settings, which takes longer than most inputs.
LOOK_EVERY = 20
#: One of so many is followed by a command that keeps the history short.
PRUNE_EVERY = 5_000

#: What a program may send, by method and path.
BODIES = {
    ("PATCH", "settings"): {"settings": {"SITENAME": "A", "MAX_FILESIZE": 5}, "comment": "why"},
    ("PATCH", "settings?"): {"RATE": 0.25, "ALLOWED": ["png"], "MAIL_SERVER": {"host": "mx"}},
    ("POST", "rollback"): {"revision": 0, "comment": "why"},
}
TAGS = ("*", '"0"', '"7"', 'W/"0"', "")

COMMANDS = (
    ("list", "--json"),
    ("get", "SITENAME"),
    ("set", "--no-wait", "SITENAME=Syrup", "MAX_FILESIZE=3"),
    ("set", "--no-wait", "--expect", "3", "--comment", "why", "RATE=0.5"),
    ("reset", "--no-wait", "SITENAME"),
    ("history", "--limit", "3"),
    ("rollback", "--no-wait", "--yes", "0"),
    ("export",),
    ("import", "--no-wait", "-"),
    ("prune", "--keep", "300"),
    ("doctor",),
    ("forget", "web"),
)
TYPED = json.dumps({"SITENAME": "Berry", "MAX_FILESIZE": 7, "ALLOWED": ["gif"]})


@contextmanager
def _visited() -> Iterator[tuple[Visitor, Callable[[random.Random], None]]]:
    """Yield a visitor, and what checks that every setting is valid."""
    memory = Path("/dev/shm")  # noqa: S108  the directory made in it is private
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as directory:
        app, waffle = make_app(
            Settings,
            instance_path=f"{directory}/instance",
            WAFFLE_DATABASE_URI=f"sqlite:///{directory}/waffle.db",
            WAFFLE_SNAPSHOT_PATH=f"{directory}/snapshot",
        )

        def look(chosen: random.Random) -> None:
            if chosen.randrange(LOOK_EVERY) == 0:
                served = waffle.settings
                assert served.model_validate(served.model_dump()) == served
            if chosen.randrange(PRUNE_EVERY) == 0:
                assert run_in_process(app, "prune", "--keep", "300").status == 0

        yield Visitor(app, waffle), look
        state_of(app).store.database.close()


@contextmanager
def bodies() -> Iterator[Callable[[random.Random], None]]:
    """Any body of the JSON interface is answered."""
    with _visited() as (visitor, look):
        client = visitor.app.test_client()

        def check(chosen: random.Random) -> None:
            (method, path), good = chosen.choice(list(BODIES.items()))
            text = json.dumps(good)
            body = (
                text_of(chosen, text).encode()
                if chosen.random() < 0.7
                else damaged(chosen, text.encode())
            )
            headers = {"X-User": "alice", "If-Match": chosen.choice(TAGS)}
            answer = client.open(
                f"{HERE}/api/{path}",
                method=method,
                data=body,
                headers=headers,
                content_type="application/json",
            )
            assert answer.status_code < 500, answer.get_data(as_text=True)
            look(chosen)

        yield check


@contextmanager
def forms() -> Iterator[Callable[[random.Random], None]]:
    """Any filled form is answered, with the token that the pages gave this visitor."""
    with _visited() as (visitor, look):
        edit = visitor.get().form("/review")
        save = visitor.review(SITENAME="Syrup").form("/save")

        def check(chosen: random.Random) -> None:
            path, good = chosen.choice((("/review", edit), ("/edit", edit), ("/save", save)))
            answer = visitor.client.post(
                f"{HERE}{path}", data=_refilled(chosen, good), headers={"X-User": "alice"}
            )
            assert answer.status_code < 500, answer.get_data(as_text=True)
            look(chosen)

        yield check


def _refilled(chosen: random.Random, good: MultiDict[str, str]) -> MultiDict[str, str]:
    """Return a form with a few fields filled in otherwise, left out or sent twice."""
    form = MultiDict(good)
    for name in chosen.sample(sorted(form), chosen.randint(1, 3)):
        if name == "csrf_token" and chosen.random() < 0.9:
            continue  # without it nothing else is read
        match chosen.randrange(5):
            case 0:
                del form[name]
            case 1:
                form.add(name, form[name])
            case 2:
                form[damaged(chosen, name.encode()).decode("utf-8", "replace")] = form[name]
            case 3:
                form[name] = str(chosen.choice(ODD))
            case _:
                form[name] = damaged(chosen, form[name].encode()).decode("utf-8", "replace")
    return form


@contextmanager
def arguments() -> Iterator[Callable[[random.Random], None]]:
    """Any arguments are done, refused in a line, or a usage error; never a traceback."""
    with _visited() as (visitor, look):

        def check(chosen: random.Random) -> None:
            command = list(chosen.choice(COMMANDS))
            for _ in range(chosen.randint(0, 2)):
                _change_one(chosen, command)
            typed = text_of(chosen, TYPED) if command[0] == "import" else ""
            done = run_in_process(visitor.app, *command, typed=typed)
            assert done.status in (0, 1, 2), command
            assert "Traceback" not in done.output + done.errors, command
            assert done.status == 0 or done.errors, command
            look(chosen)

        yield check


def _change_one(chosen: random.Random, command: list[str]) -> None:
    """Change an argument, or add one, or leave one out."""
    at = chosen.randrange(1, len(command) + 1)
    if at == len(command) or chosen.random() < 0.2:
        command.insert(at, str(chosen.choice((*ODD, "--json", "--help", "--yes", "SITENAME="))))
    elif chosen.random() < 0.2:
        del command[at]
        return
    else:
        command[at] = damaged(chosen, command[at].encode()).decode("utf-8", "replace")
    command[at] = command[at].replace("\0", "")  # no program can be given that
