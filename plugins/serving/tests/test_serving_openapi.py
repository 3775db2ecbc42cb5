"""The OpenAPI document, and schemathesis run against it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings, strategies
from hypothesis.errors import Unsatisfiable
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from serving_pieces import Running, serving

CHECKS = [
    schemathesis.checks.not_a_server_error,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
]


def operations() -> list[tuple[str, str]]:
    from deepseek_serving.http.openapi import document

    return [(verb, path) for path, verbs in document()["paths"].items() for verb in verbs]


@pytest.fixture(scope="module")
def allowing(shared_models: Path) -> Iterator[Running]:
    """A server that allows all administrative calls."""
    with serving(shared_models, allow=["load", "settings", "shared_memory"]) as running:
        yield running


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize(("verb", "path"), operations())
def test_schemathesis_finds_no_server_error_and_no_violation(
    allowing: Running, verb: str, path: str, mode: schemathesis.GenerationMode
) -> None:
    operation = schemathesis.openapi.from_url(f"{allowing.url}/openapi.json")[path][verb.upper()]
    seen = set()

    @settings(max_examples=40, deadline=None, database=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(operation.as_strategy(generation_mode=mode), strategies.booleans())
    def ask(case: schemathesis.Case, known: bool) -> None:
        if known and isinstance(case.path_parameters, dict) and "name" in case.path_parameters:
            # Half of the requests are for a model that there is.
            case.path_parameters["name"] = "float"
        answer = case.call()
        case.validate_response(answer, checks=CHECKS)
        seen.add(answer.status_code)

    try:
        ask()
    except Unsatisfiable:
        assert mode is schemathesis.GenerationMode.NEGATIVE
    else:
        assert seen


@pytest.mark.parametrize("path", sorted({path for _, path in operations()}))
def test_a_verb_that_a_path_does_not_take_is_told_those_that_it_does(shared: Running, path: str) -> None:
    verbs = {verb.upper() for verb, known in operations() if known == path}
    answer = shared.http.delete(path.format(name="float", version="1", region="mine"))
    assert answer.status_code == 405
    assert set(answer.headers["allow"].split(", ")) - {"HEAD"} == verbs
