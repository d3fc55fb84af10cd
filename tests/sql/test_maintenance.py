"""Pruning, new keys, and a database behind its hosts."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
import sqlalchemy as sa
from cryptography.fernet import Fernet
from pydantic import SecretStr

from tests.conftest import Apps, execute, state_of
from tests.support.soak import is_soak
from uwsgi_waffle import InvalidSetting, UnknownRevision, WaffleConf, WaffleSettings
from uwsgi_waffle.bus.signing import is_signed, sign
from uwsgi_waffle.process.state import State
from uwsgi_waffle.sql.declared import CHANGE
from uwsgi_waffle.sql.maintenance import Pruned, Rotated, prune, resync, rotate_keys
from uwsgi_waffle.values.position import NOWHERE, Position

NAMES = ("A", "B", "C", "D")


class Numbers(WaffleSettings):
    """Whole numbers."""

    A: int = 0
    B: int = 0
    C: int = 0
    D: int = 0


class Secrets(WaffleSettings):
    """A secret, and settings that are not."""

    API_KEY: SecretStr = SecretStr("k")
    SITENAME: str = "Waffle"


class Past:
    """A history made at random, and what the settings were at each revision."""

    def __init__(self, waffle: WaffleConf[Numbers], state: State, seed: int) -> None:
        self.waffle = waffle
        self.state = state
        self._random = random.Random(seed)  # noqa: S311  so that a failure repeats
        self.states = [waffle.settings]

    def make(self, revisions: int) -> None:
        """Make updates and resets of one to four settings."""
        while len(self.states) <= revisions:
            names = self._random.sample(NAMES, self._random.randint(1, len(NAMES)))
            if self._random.random() < 0.3:
                self.waffle.reset(*names)
            else:
                self.waffle.update({name: self._random.randint(0, 3) for name in names})
            if self.waffle.revision == len(self.states):
                self.states.append(self.waffle.settings)

    def check_from(self, mark: int) -> None:
        """Assert that each revision from *mark* on can be rolled back to, and none before."""
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


@pytest.fixture(params=[1, 2] if is_soak() else [1])
def past(request: pytest.FixtureRequest, database_apps: Apps) -> Past:
    """Give 30 revisions on each database."""
    app, waffle = database_apps(Numbers)
    made = Past(waffle, state_of(app), request.param)
    made.make(30)
    return made


# -- pruning ----------------------------------------------------------------------------------


def test_after_pruning_a_rollback_to_any_later_revision_is_right(past: Past) -> None:
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


def test_a_dry_run_gives_the_same_figures_and_removes_nothing(past: Past) -> None:
    """To prune again changes nothing, and the mark never goes back."""
    before = past.waffle.history(limit=None)
    foreseen = prune(past.state.store, keep=5, dry_run=True)
    assert past.waffle.history(limit=None) == before
    assert foreseen.removed > 0
    assert foreseen.removed + foreseen.kept == len(before)
    assert foreseen == prune(past.state.store, keep=5)
    for keep in (5, 20, 1000):
        assert prune(past.state.store, keep=keep) == Pruned(foreseen.up_to, 0, foreseen.kept)


def test_pruning_by_age_keeps_what_is_younger(past: Past) -> None:
    """Older revisions are removed, and the younger ones can be rolled back to."""
    old = datetime.now(timezone.utc).replace(tzinfo=None) - timedelta(days=100)
    engine = past.state.store.database.engine
    with engine.begin() as connection:
        connection.execute(sa.update(CHANGE).where(CHANGE.c.revision <= 12).values(at=old))
    moment = datetime.now(timezone.utc) - timedelta(days=90)
    assert prune(past.state.store, before=moment).up_to == 12
    past.check_from(12)


def test_pruning_leaves_other_namespaces_alone(some_apps: Apps) -> None:
    _, mine = some_apps(Numbers)
    app, other = some_apps(Numbers, host="there", WAFFLE_NAMESPACE="other")
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


def _rotate(apps: Apps, host: str, *keys: str) -> tuple[State, WaffleConf[Any], Rotated]:
    app, waffle = apps(Secrets, host=host, WAFFLE_ENCRYPTION_KEYS=keys)
    state = state_of(app)
    done = rotate_keys(
        state.store, state.cipher, state.declaration.secrets, beyond=state.host.position
    )
    assert (done.values, done.history) == ((1, 2) if keys else (0, 0))
    assert done.record == state.store.read()
    waffle.refresh()
    assert waffle.settings.API_KEY.get_secret_value() == "n3wer"
    return state, waffle, done


def test_a_first_key_seals_secrets_that_were_stored_open(unsealed: Apps) -> None:
    state, waffle, _ = _rotate(unsealed, "a", KEYS[0])
    assert len(_texts(state)) == 5
    assert all(_opens(KEYS[0], text) for text in _texts(state))
    assert waffle.revision == 3
    assert [c.new.get_secret_value() for c in waffle.history("API_KEY", reveal=True)] == [
        "n3wer",
        "s3cret",
    ]
    # Other settings stay as they are.
    assert execute(
        state.config.database_uri, "SELECT value FROM waffle_setting WHERE name = 'SITENAME'"
    ) == [('"New"',)]


def test_after_a_rotation_the_old_key_can_be_dropped(unsealed: Apps) -> None:
    _rotate(unsealed, "a", KEYS[0])
    state, *_ = _rotate(unsealed, "b", KEYS[1], KEYS[0])
    assert all(_opens(KEYS[1], text) for text in _texts(state))
    _, waffle = unsealed(Secrets, host="c", WAFFLE_ENCRYPTION_KEYS=[KEYS[1]])
    assert waffle.settings.API_KEY.get_secret_value() == "n3wer"
    waffle.rollback(1)
    assert waffle.settings.API_KEY.get_secret_value() == "s3cret"


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ([KEYS[1]], "API_KEY: none of the keys"),
        ([], "API_KEY: the stored value is encrypted; set WAFFLE_ENCRYPTION_KEYS"),
    ],
    ids=["another key", "no key"],
)
def test_a_rotation_that_cannot_open_a_value_changes_nothing(
    some_apps: Apps, keys: list[str], reason: str
) -> None:
    _, waffle = some_apps(Secrets, WAFFLE_ENCRYPTION_KEYS=[KEYS[0]])
    waffle.update({"API_KEY": "s3cret"})
    app, _ = some_apps(Secrets, host="b", WAFFLE_ENCRYPTION_KEYS=keys)
    lacking = state_of(app)
    before = _texts(lacking), lacking.store.read()
    with pytest.raises(InvalidSetting, match=reason):
        rotate_keys(lacking.store, lacking.cipher, {"API_KEY"}, beyond=NOWHERE)
    assert (_texts(lacking), lacking.store.read()) == before


def test_a_rotation_makes_a_message_key_without_a_gap(unsealed: Apps) -> None:
    """Hosts that have only the key before still understand the others; two keys stay at most.

    Without encryption keys, secrets stay as they are.
    """
    state, _, first = _rotate(unsealed, "a")
    texts, keys = _texts(state), state.host.keys
    assert (len(keys), keys) == (2, first.record.keys)
    _, waffle, second = _rotate(unsealed, "b")
    assert waffle.revision == second.record.revision == first.record.revision + 1
    assert second.record.keys[1:] == first.record.keys[:1]
    assert second.record.keys[0] not in keys
    assert _texts(state) == texts
    for signs, accepts in ((second, first), (first, second)):
        message = sign(signs.record.keys, "message")
        assert is_signed(accepts.record.keys, "message", message)


def test_a_host_replaces_the_texts_of_the_key_before(apps: Apps) -> None:
    """A rotation is a revision, so no text of the old key is left in the host snapshot."""
    key = KEYS[0]
    _, waffle = apps(Secrets, WAFFLE_ENCRYPTION_KEYS=[key])
    waffle.update({"API_KEY": "s3cret"})
    app, waffle = apps(Secrets, WAFFLE_ENCRYPTION_KEYS=[KEYS[1], key])
    state = state_of(app)
    rotate_keys(state.store, state.cipher, {"API_KEY"}, beyond=state.host.position)
    assert waffle.refresh()
    found = state.host.read()
    assert found is not None
    assert _opens(KEYS[1], found[1].rows["API_KEY"])
    assert waffle.settings.API_KEY.get_secret_value() == "s3cret"


# -- a restored backup ------------------------------------------------------------------------


def test_a_database_behind_its_hosts_is_moved_past_them(past: Past) -> None:
    """Hosts serve what they have seen until a resync, and then what SQL holds."""
    state, waffle = past.state, past.waffle
    seen = waffle.settings
    url = state.config.database_uri
    execute(url, "DELETE FROM waffle_change WHERE revision > 20")
    execute(url, "DELETE FROM waffle_setting", "UPDATE waffle_namespace SET revision = 20")
    waffle.refresh()
    assert waffle.settings == seen
    present = state.store.peek()
    ahead = [replace(present, revision=revision) for revision in (30, 25)]
    record = resync(state.store, [*ahead, Position("f" * 16, 99, present.stamp)])
    assert record is not None
    assert record.revision == 31
    assert waffle.refresh()
    assert waffle.settings == past.states[0]
    assert resync(state.store, ahead) is None
    waffle.update({"A": 7})
    assert waffle.revision == 32
    waffle.rollback(20)
    assert waffle.settings == past.states[20]


def test_a_database_that_is_meant_to_be_empty_is_served_after_a_resync(past: Past) -> None:
    """A database of which no host has seen anything is left as it is."""
    state, waffle = past.state, past.waffle
    state.adopt_process()
    seen = waffle.settings
    tables = ("waffle_change", "waffle_setting", "waffle_namespace")
    execute(state.config.database_uri, *(f"DROP TABLE {table}" for table in tables))
    waffle.refresh()
    assert waffle.settings == seen
    assert resync(state.store, [NOWHERE]) is None
    record = resync(state.store, [state.host.position])
    assert record is not None
    assert (record.revision, len(record.keys)) == (0, 1)
    assert record.position.lineage != state.host.position.lineage
    assert waffle.refresh()
    assert waffle.settings == past.states[0]
