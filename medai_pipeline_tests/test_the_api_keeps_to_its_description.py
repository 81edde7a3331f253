"""Schemathesis over our own OpenAPI file, as a caller with every role: no server error, and only answers that it names.

MEDAI_TEST_EXAMPLES sets how many requests each operation gets (default 4): more for an attack by hand.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from medai_pipeline.web.roles import Role
from medai_pipeline_tests.web import Site

EXAMPLES = int(os.environ.get("MEDAI_TEST_EXAMPLES", "4"))
CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]


@pytest.fixture
def everyone(site: Site) -> dict[str, str]:
    client = site.caller(*Role, name="everyone")
    return {"Authorization": client.headers["authorization"]}


@pytest.fixture
def api_schema(site: Site, everyone: dict[str, str]) -> Any:
    return schemathesis.openapi.from_asgi("/api/openapi.json", site.app, headers=everyone)


schema = schemathesis.pytest.from_fixture("api_schema")


@schema.parametrize()
@settings(max_examples=EXAMPLES, deadline=None, derandomize=EXAMPLES < 10, suppress_health_check=list(HealthCheck))
def test_an_operation_answers_as_it_is_described(case: Any, everyone: dict[str, str]) -> None:
    if case.query and "wait" in case.query:
        case.query["wait"] = 0
    case.call_and_validate(headers=everyone, checks=CHECKS)
