"""The description of the interface, walked from the operations that are really served (OpenAPI 3.1)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import Any

import msgspec

from datahub.web.app import App, Operation, Shape

__all__ = ["Problem", "describe"]

REFERENCE = "#/components/schemas/{name}"
FORMS = ("application/json", "application/x-www-form-urlencoded", "multipart/form-data")
ARGUMENT = re.compile(r"<(?:[^:<>]*:)?(\w+)>")


class Problem(msgspec.Struct, omit_defaults=True):
    """An error (RFC 9457); ``code`` is also in the header X-Datahub-Error."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    field: str = ""
    incident: str = ""


def describe(apps: Iterable[App], version: str) -> dict[str, Any]:
    """The OpenAPI document of ``apps``."""
    operations = [operation for app in apps for operation in app.operations.values()]
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        for method in operation.methods:
            paths.setdefault(_template(operation), {})[method.lower()] = _described(operation, method)
    _, schemas = msgspec.json.schema_components(_shapes(operations), ref_template=REFERENCE)
    return {
        "openapi": "3.1.0",
        "info": {"title": "datahub", "version": version},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _template(operation: Operation) -> str:
    return ARGUMENT.sub(r"{\1}", operation.path)


def _shapes(operations: Iterable[Operation]) -> list[Shape]:
    shapes: dict[Shape, None] = {Problem: None}
    for operation in operations:
        named = (operation.takes, *operation.bodies.values(), *operation.gives.values())
        shapes |= dict.fromkeys(shape for shape in named if shape)
    return list(shapes)


def _described(operation: Operation, method: str) -> dict[str, Any]:
    slug = re.sub(r"\W+", "_", ARGUMENT.sub(r"\1", operation.path)).strip("_")
    described: dict[str, Any] = {
        "operationId": f"{method.lower()}_{slug}",
        "summary": operation.summary,
        "parameters": [_path_parameter(name) for name in ARGUMENT.findall(operation.path)],
        "responses": _responses(operation),
        "security": [{"token": [operation.scope]}] if operation.scope else [],
    }
    if operation.takes is not None and method in ("GET", "DELETE"):
        described["parameters"] += _query_parameters(operation.takes)
    elif operation.takes is not None:
        content = {form: {"schema": _reference(operation.takes)} for form in FORMS}
        described["requestBody"] = {"content": content}
    elif operation.bodies:
        described["requestBody"] = {"content": {kind: _read(shape) for kind, shape in operation.bodies.items()}}
    return described


def _read(shape: Shape | None) -> Mapping[str, Any]:
    return {} if shape is None else {"schema": _reference(shape)}


def _path_parameter(name: str) -> Mapping[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _query_parameters(shape: Shape) -> Iterator[Mapping[str, Any]]:
    for field in msgspec.structs.fields(shape):
        (schema,), _ = msgspec.json.schema_components([field.type], ref_template=REFERENCE)
        yield {"name": field.encode_name, "in": "query", "required": field.required, "schema": schema}


def _responses(operation: Operation) -> Mapping[str, Any]:
    responses = {str(status): _response(status, shape) for status, shape in operation.gives.items()}
    # Where a replaced system fixed the shape of errors, that shape is in the capability's own documentation.
    if operation.refuses is None:
        problem = {"application/problem+json": {"schema": _reference(Problem)}}
        responses["default"] = {"description": "an error", "content": problem}
    else:
        responses["default"] = {"description": "an error", "content": {"application/json": {}}}
    return responses


def _response(status: int, shape: Shape | None) -> Mapping[str, Any]:
    response: dict[str, Any] = {"description": HTTPStatus(status).phrase}
    if shape is not None:
        response["content"] = {"application/json": {"schema": _reference(shape)}}
    return response


def _reference(shape: Shape) -> Any:
    (reference,), _ = msgspec.json.schema_components([shape], ref_template=REFERENCE)
    return reference
