"""Pruning, new keys and a database behind its hosts, on each database."""

from __future__ import annotations

import random
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
import sqlalchemy as sa
from cryptography.fernet import Fernet
from pydantic import Field, SecretStr

from tests.conftest import Apps, execute, state_of
from uwsgi_waffle import ConfigError, InvalidSetting, UnknownRevision, WaffleConf, WaffleSettings
from uwsgi_waffle.process.state import State
from uwsgi_waffle.sql.maintenance import Pruned, prune, resync, rotate_keys
from uwsgi_waffle.sql.schema import CHANGE

NAMES = ("A", "B", "C", "D")


class Numbers(WaffleSettings):
    """Whole numbers."""

    A: int = 0
    B: int = 0
    C: int = 0
    D: int = 0


class Secrets(WaffleSettings):
    """A secret, and what is none."""

    API_KEY: SecretStr = SecretStr("k")
    SITENAME: str = "Waffle"
    LIST: list[int] = Field([])


class Past:
    """A history made at random, and what the settings were at each revision."""

    def __init__(self, waffle: WaffleConf[Numbers], state: State, seed: int) -> None:
        self.waffle = waffle
        self.state = state
        self._random = random.Random(seed)  # noqa: S311  so that a failure comes again
        self.states = [waffle.settings]

    def go_on(self, revisions: int) -> None:
        """Make revisions: updates and resets of one to four settings."""
        while len(self.states) <= revisions:
            names = self._random.sample(NAMES, self._random.randint(1, len(NAMES)))
            if self._random.random() < 0.3:
                self.waffle.reset(*names)
            else:
                self.waffle.update({name: self._random.randint(0, 3) for name in names})
            if self.waffle.revision == len(self.states):
                self.states.append(self.waffle.settings)

    def check_from(self, mark: int) -> None:
        """Assert that each revision from *mark* on can be gone back to, and none before."""
        present = self.waffle.settings
        for revision, then in enumerate(self.states):
            if revision < mark:
                with pytest.raises(UnknownRevision):
                    self.waffle.rollback(revision)
                continue
            self.waffle.rollback(revision)
            assert self.waffle.settings == then
        self.waffle.refresh()
        self.waffle.update(present.model_dump())
        assert self.waffle.settings == present


@pytest.fixture(params=[1, 2])
def past(request: pytest.FixtureRequest, database_apps: Apps) -> Past:
    """Give 30 revisions on each database."""
    app, waffle = database_apps(Numbers)
    made = Past(waffle, state_of(app), request.param)
    made.go_on(30)
    return made


# -- pruning ----------------------------------------------------------------------------------


def test_pruning_leaves_every_later_revision_right(past: Past) -> None:
    """After each pruning a rollback to any revision from the mark on gives what was then."""
    present = past.waffle.settings
    assert prune(past.state.store, keep=20).up_to == 10
    assert prune(past.state.store, keep=5).up_to == 25
    past.waffle.refresh()
    assert past.waffle.settings == present
    past.check_from(25)


def test_pruning_everything_keeps_the_present_values_and_their_last_changes(past: Past) -> None:
    present = past.waffle.settings
    done = prune(past.state.store, keep=0)
    assert done.up_to == 30
    assert done.kept <= len(NAMES)
    lines = past.waffle.history(limit=None)
    assert {line.name: line.new for line in lines} == present.model_dump()
    past.waffle.refresh()
    assert past.waffle.settings == present
    past.waffle.update({"A": 9})
    past.waffle.rollback(30)
    assert past.waffle.settings == present


def test_pruning_never_goes_back_and_again_changes_nothing(past: Past) -> None:
    first = prune(past.state.store, keep=5)
    assert prune(past.state.store, keep=5) == Pruned(first.up_to, 0, first.kept)
    assert prune(past.state.store, keep=20).up_to == first.up_to
    assert prune(past.state.store, keep=1000).up_to == first.up_to


def test_a_dry_run_tells_the_same_and_removes_nothing(past: Past) -> None:
    before = past.waffle.history(limit=None)
    told = prune(past.state.store, keep=5, dry_run=True)
    assert past.waffle.history(limit=None) == before
    assert told == prune(past.state.store, keep=5)
    assert told.removed > 0
    assert told.removed + told.kept == len(before)


def test_pruning_by_age_keeps_what_is_younger(past: Past) -> None:
    """What was made before the moment goes; the revisions made after it can be gone back to."""
    old = datetime.now(timezone.utc).replace(tzinfo=None) - timedelta(days=100)
    engine = past.state.store.database.engine
    with engine.begin() as connection:
        connection.execute(sa.update(CHANGE).where(CHANGE.c.revision <= 12).values(at=old))
    moment = datetime.now(timezone.utc) - timedelta(days=90)
    assert prune(past.state.store, before=moment).up_to == 12
    past.check_from(12)


def test_pruning_leaves_other_namespaces_alone(database_apps: Apps) -> None:
    _, mine = database_apps(Numbers)
    app, other = database_apps(Numbers, host="there", WAFFLE_NAMESPACE="other")
    for value in range(1, 6):
        mine.update({"A": value})
        other.update({"A": value})
    prune(state_of(app).store, keep=1)
    assert len(mine.history()) == 5
    mine.rollback(0)
    assert mine.settings.A == 0


# -- keys -------------------------------------------------------------------------------------


def _texts(state: State) -> list[str]:
    """Return every stored text of the secret, in the table and in the history."""
    url = state.config.database_uri
    rows = execute(url, "SELECT value FROM waffle_setting WHERE name = 'API_KEY'")
    rows += execute(url, "SELECT old FROM waffle_change WHERE name = 'API_KEY'")
    rows += execute(url, "SELECT new FROM waffle_change WHERE name = 'API_KEY'")
    return [text for (text,) in rows]


def _opens(key: str, text: str) -> bool:
    """Return whether a key by itself opens a stored text."""
    return bool(Fernet(key).decrypt(text.removeprefix("fernet:")))


KEYS = [Fernet.generate_key().decode() for _ in range(2)]


@pytest.fixture
def unsealed(database_apps: Apps) -> Apps:
    """Give a database to which a secret was written when there was no key."""
    _, waffle = database_apps(Secrets)
    waffle.update({"API_KEY": "s3cret", "SITENAME": "New"})
    waffle.update({"API_KEY": "n3wer"})
    return database_apps


def _rotate(apps: Apps, host: str, *keys: str) -> tuple[State, WaffleConf[Any]]:
    app, waffle = apps(Secrets, host=host, WAFFLE_ENCRYPTION_KEYS=keys)
    state = state_of(app)
    done = rotate_keys(
        state.store, state.cipher, state.declaration.secrets, beyond=state.host.position
    )
    assert (done.values, done.history) == (1, 2)
    assert done.record.revision == state.store.peek()[1]
    waffle.refresh()
    assert waffle.settings.API_KEY.get_secret_value() == "n3wer"
    return state, waffle


def test_a_first_key_seals_what_was_stored_open(unsealed: Apps) -> None:
    state, waffle = _rotate(unsealed, "a", KEYS[0])
    assert len(_texts(state)) == 5
    assert all(_opens(KEYS[0], text) for text in _texts(state))
    assert waffle.revision == 3
    assert [c.new.get_secret_value() for c in waffle.history("API_KEY", reveal=True)] == [
        "n3wer",
        "s3cret",
    ]
    # What is no secret stays as it is.
    assert execute(
        state.config.database_uri, "SELECT value FROM waffle_setting WHERE name = 'SITENAME'"
    ) == [('"New"',)]


def test_after_a_rotation_the_old_key_can_go(unsealed: Apps) -> None:
    _rotate(unsealed, "a", KEYS[0])
    state, _ = _rotate(unsealed, "b", KEYS[1], KEYS[0])
    assert all(_opens(KEYS[1], text) for text in _texts(state))
    _, waffle = unsealed(Secrets, host="c", WAFFLE_ENCRYPTION_KEYS=[KEYS[1]])
    assert waffle.settings.API_KEY.get_secret_value() == "n3wer"
    waffle.rollback(1)
    assert waffle.settings.API_KEY.get_secret_value() == "s3cret"


def test_a_rotation_that_lacks_a_key_changes_nothing(unsealed: Apps) -> None:
    state, _ = _rotate(unsealed, "a", KEYS[0])
    before = _texts(state), state.store.peek()
    app, _ = unsealed(Secrets, host="b", WAFFLE_ENCRYPTION_KEYS=[KEYS[1]])
    lacking = state_of(app)
    with pytest.raises(InvalidSetting, match="API_KEY: none of the keys"):
        rotate_keys(lacking.store, lacking.cipher, {"API_KEY"}, beyond=("", 0))
    assert (_texts(state), state.store.peek()) == before


def test_a_rotation_without_a_key_is_refused(unsealed: Apps) -> None:
    app, _ = unsealed(Secrets, host="b")
    state = state_of(app)
    with pytest.raises(ConfigError, match="WAFFLE_ENCRYPTION_KEYS"):
        rotate_keys(state.store, state.cipher, {"API_KEY"}, beyond=("", 0))


def test_hosts_take_the_new_texts(apps: Apps) -> None:
    """A rotation is a revision, so the host snapshot follows: no old text is left in it."""
    key = KEYS[0]
    _, waffle = apps(Secrets, WAFFLE_ENCRYPTION_KEYS=[key])
    waffle.update({"API_KEY": "s3cret"})
    app, waffle = apps(Secrets, WAFFLE_ENCRYPTION_KEYS=[KEYS[1], key])
    state = state_of(app)
    rotate_keys(state.store, state.cipher, {"API_KEY"}, beyond=state.host.position)
    assert waffle.refresh()
    found = state.host.read()
    assert found is not None
    assert found[1].rows is not None
    assert _opens(KEYS[1], found[1].rows["API_KEY"])
    assert waffle.settings.API_KEY.get_secret_value() == "s3cret"


# -- a restored backup ------------------------------------------------------------------------


def test_a_database_behind_its_hosts_is_moved_past_them(past: Past) -> None:
    """Hosts go on serving what they have seen; after a resync they serve what SQL holds."""
    state, waffle = past.state, past.waffle
    seen = waffle.settings
    url = state.config.database_uri
    execute(url, "DELETE FROM waffle_change WHERE revision > 20")
    execute(url, "DELETE FROM waffle_setting", "UPDATE waffle_namespace SET revision = 20")
    waffle.refresh()
    assert waffle.settings == seen
    lineage = state.store.peek()[0]
    record = resync(state.store, [(lineage, 30), ("another", 99), (lineage, 25)])
    assert record is not None
    assert record.revision == 31
    assert waffle.refresh()
    assert waffle.settings == past.states[0]
    assert resync(state.store, [(lineage, 30)]) is None
    waffle.update({"A": 7})
    assert waffle.revision == 32
    waffle.rollback(20)
    assert waffle.settings == past.states[20]


def test_a_database_that_is_meant_to_be_empty_is_served_after_a_resync(past: Past) -> None:
    """Of those that no host has seen anything of, nothing is made."""
    state, waffle = past.state, past.waffle
    state.adopt_process()
    seen = waffle.settings
    tables = ("waffle_change", "waffle_setting", "waffle_namespace")
    execute(state.config.database_uri, *(f"DROP TABLE {table}" for table in tables))
    waffle.refresh()
    assert waffle.settings == seen
    assert resync(state.store, [("", 0)]) is None
    record = resync(state.store, [state.host.position])
    assert record is not None
    assert record.revision == 1
    assert waffle.refresh()
    assert waffle.settings == past.states[0]
