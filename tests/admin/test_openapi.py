"""The OpenAPI document describes every answer, whatever is sent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests.admin.visitor import Visitor
from tests.apps.admin_pages import KEY_DEFAULT, SECRET_DEFAULT, make_app
from tests.conftest import state_of

OPERATIONS = [
    ("/settings", "GET"),
    ("/settings", "PATCH"),
    ("/history", "GET"),
    ("/rollback", "POST"),
    ("/status", "GET"),
]


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Give the interface of an application, as its own document describes it."""
    directory: Path = tmp_path_factory.mktemp("fuzz")
    app, _ = make_app(
        instance_path=str(directory),
        WAFFLE_DATABASE_URI=f"sqlite:///{directory}/waffle.db",
        WAFFLE_SNAPSHOT_PATH=str(directory / "snapshot"),
    )
    yield schemathesis.openapi.from_wsgi("/waffle/api/openapi.json", app)
    state_of(app).store.database.close()


def test_every_operation_is_fuzzed(document: Any) -> None:
    found = [result.ok() for result in document.get_all_operations()]
    assert sorted((one.path, one.method.upper()) for one in found) == sorted(OPERATIONS)


@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_whatever_is_sent_the_answer_is_as_documented(
    document: Any, path: str, method: str, mode: GenerationMode
) -> None:
    """No 5xx, no status or answer that is not documented, no secret; nonsense is refused."""
    operation = document[path][method]
    # JSON Schema has no words for the rules between settings, nor for what a decimal is.
    is_narrower = [positive_data_acceptance] if path == "/settings" else []
    if mode is GenerationMode.NEGATIVE and not (operation.body or operation.query):
        return  # nothing about it can be wrong

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    def send(case: Any) -> None:
        answer = case.call_and_validate(excluded_checks=is_narrower)
        assert SECRET_DEFAULT not in answer.text
        assert KEY_DEFAULT not in answer.text

    send()


def test_the_document_is_made_of_the_declarations(visitor: Visitor) -> None:
    document = visitor.api("GET", "/openapi.json").json
    assert document is not None
    patch = document["components"]["schemas"]["Patch"]["properties"]
    assert patch["MAX_FILESIZE"]["minimum"] == 1
    assert patch["THEME"]["enum"] == ["batter", "syrup", "berry"]
    assert patch["MAIL_SERVER"]["$ref"] == "#/components/schemas/Smtp"
    assert document["servers"] == [{"url": "/waffle/api"}]
