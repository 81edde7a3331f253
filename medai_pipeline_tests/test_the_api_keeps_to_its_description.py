"""Schemathesis over our own OpenAPI file, as a caller with every role: no server error, and only answers that it names.

MEDAI_TEST_EXAMPLES sets how many requests each operation gets (default 4): more for an attack by hand.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from medai_pipeline.services import Services
from medai_pipeline.web.app import create_app
from medai_pipeline.web.roles import Role
from medai_pipeline_tests.orthanc import RunningOrthanc
from medai_pipeline_tests.web import caller

EXAMPLES = int(os.environ.get("MEDAI_TEST_EXAMPLES", "4"))
CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]


def test_every_operation_answers_as_it_is_described(services: Services, orthanc: RunningOrthanc) -> None:
    services.settings = replace(
        services.settings,
        orthanc_url=orthanc.url,
        orthanc_username=orthanc.username,
        orthanc_password=orthanc.password,
    )
    app = create_app(services)
    headers = {"Authorization": caller(app, *Role, name="everyone").headers["authorization"]}
    schema = schemathesis.openapi.from_asgi("/api/openapi.json", app, headers=headers)
    wrong: list[str] = []
    statuses: set[int] = set()
    for found in schema.get_all_operations():
        operation = found.ok()
        if operation.path == "/ready":
            continue  # 503 is its answer here: no daemon runs

        @given(case=operation.as_strategy())
        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            derandomize=EXAMPLES < 10,
            suppress_health_check=list(HealthCheck),
        )
        def ask(case: Any) -> None:
            if case.query and "wait" in case.query:
                case.query["wait"] = 0
            statuses.add(case.call_and_validate(headers=headers, checks=CHECKS).status_code)

        try:
            ask()
        except* Exception as errors:  # noqa: BLE001 - all that is wrong is told at once
            wrong.append(f"{operation.method.upper()} {operation.path}: {errors.exceptions}")
    assert wrong == []
    assert {200, 404, 422} <= statuses  # it came as far as the operations themselves
