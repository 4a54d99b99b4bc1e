"""OpenAPI 3.1 of the service, built from the msgspec schemas and the cards of the models in service."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from serve_app.guard.access import PUBLIC
from serve_app.http.components import components
from serve_app.http.docs import FILES
from serve_app.http.examples import EXAMPLES
from serve_app.http.meanings import explain
from serve_app.http.routes import ROUTES, Route
from serve_app.wire.limits import TABLE

__all__ = ["describe"]


#: Answers that any route may give besides success.
_PROBLEMS: dict[int, str] = {
    400: "The body is not JSON, or a header cannot be used.",
    401: "A valid key is needed: `Authorization: Bearer aiops_…`.",
    403: "The key lacks the scope.",
    404: "Unknown model, version, job, action or path.",
    405: "Another method is meant.",
    408: "The body did not arrive in time.",
    409: "Not possible in the present state, or the version could not be served: nothing was changed.",
    413: "The body, or what it asks for, is too large.",
    415: "The body is not application/json in UTF-8.",
    421: "The service is not called by this name.",
    422: "The body breaks a rule, `errors` lists paths and rules; or the idempotency key came with another request.",
    429: "The key asks too often, or too many wrong keys came from the address: see `Retry-After`.",
    502: "The webhook failed.",
    503: "No model has been promoted yet, the registry cannot be reached, the state folder cannot be written, the service "
    "is closed because its keys cannot be read, or there is too much to do at once. With `Retry-After` nothing was done, "
    "and it says in how many seconds to try again.",
}

_KEY = (
    "From `aiops keys add NAME --scope read,predict,operate`; without a keys file none is needed on the same machine."
)
#: Those of the guard.
_GUARDED = (400, 401, 403, 421, 429, 503)
#: Of writes.
_IDEMPOTENCY = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "The same key with the same request is answered as the first time, and nothing is done twice.",
    "schema": {"type": "string", "pattern": "^[!-~]{1,128}$"},
}
#: Variables of paths.
_JOB_ID = {"schema": {"type": "string", "pattern": "^[0-9a-f]{12}$"}, "example": "0123456789ab"}
_VARIABLES: dict[str, dict[str, Any]] = {"job_id": _JOB_ID, "file": {"schema": {"type": "string", "enum": list(FILES)}}}


def _problems(route: Route) -> dict[str, Any]:
    """Describe the problems of a route, its own and those of the guard."""
    codes = {*route.problems, *(() if route.scope == PUBLIC else _GUARDED)}
    if route.writes:
        codes |= {409, 422}
    body = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}}
    return {str(code): {"description": _PROBLEMS[code], "content": body} for code in sorted(codes)}


def describe(cards: Mapping[str, Any]) -> dict[str, Any]:
    """Return the OpenAPI description.

    Parameters
    ----------
    cards : mapping of str to mapping
        Features, classes and targets of the models in service, by task; routes whose model is missing are
        described without feature names.
    """
    paths: dict[str, Any] = {}
    for route in ROUTES:
        entry = paths.setdefault(route.shown, _parameters(route.path))
        entry[route.method.lower()] = _prediction(route) if route.task else _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "AIOps workbench",
            "version": "3",
            "description": "Failure, threat and capacity predictions by the registered champions. Numbers are finite JSON "
            'numbers; a batch is `{"instances": [...]}` with up to 10,000 instances; errors are RFC 9457 problem details. Of a '
            f"key given twice in an object the last value counts. Limits: {'; '.join(f'{w}: {m}' for w, m, *_ in TABLE)}.",
        },
        "paths": paths,
        "components": {
            "schemas": explain(components(cards)),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": _KEY}},
        },
    }


def _parameters(path: str) -> dict[str, Any]:
    """Describe the variables of a path, if it has any."""
    found = [
        {"name": name, "in": "path", "required": True, **rest}
        for name, rest in _VARIABLES.items()
        if f"{{{name}}}" in path
    ]
    return {"parameters": found} if found else {}


def _head(route: Route) -> dict[str, Any]:
    name = re.sub(r"\W+", "_", route.path).strip("_")
    operation = route.operation or (name if route.method == "POST" else f"get_{name}")
    head: dict[str, Any] = {"operationId": operation, "tags": [route.tag], "summary": route.summary}
    head["security"] = [] if route.scope == PUBLIC else [{"key": [route.scope]}]
    if route.writes:
        head["parameters"] = [_IDEMPOTENCY]
    if route.query is not None:
        head["parameters"] = _query(route.query)
    return head


def _query(parameters: type[msgspec.Struct]) -> list[dict[str, Any]]:
    """Describe the parameters of a query."""
    _, parts = msgspec.json.schema_components([parameters], ref_template="{name}")
    found = []
    for name, schema in parts[parameters.__name__]["properties"].items():
        # What is left out is left out: there is no way to write null.
        inner = next((branch for branch in schema.get("anyOf", []) if branch.get("type") != "null"), schema)
        inner = {key: value for key, value in inner.items() if not (key == "default" and value is None)}
        described = {"description": inner.pop("description")} if "description" in inner else {}
        found.append({"name": name, "in": "query", "required": False, **described, "schema": inner})
    return found


def _operation(route: Route) -> dict[str, Any]:
    """Describe an operation that is not a prediction."""
    entry = _head(route)
    if route.request is not None:
        body = {"schema": _ref(route.request.__name__), "example": EXAMPLES[route.path]}
        entry["requestBody"] = {"required": True, "content": {"application/json": body}}
    content = {route.media: {} if route.shape is None else {"schema": dict(route.shape)}}
    success = {str(route.success): {"description": route.meaning, "content": content}}
    return {**entry, "responses": {**success, **_problems(route)}}


def _prediction(route: Route) -> dict[str, Any]:
    """Describe an operation that takes one instance or a batch of them."""
    flat = [_ref("TelemetryRow")] if route.schema == "Failure" else []
    answer = _ref(f"{route.schema}Answer")
    batch = {
        "type": "object",
        "properties": {"predictions": {"type": "array", "items": {"anyOf": [answer, _ref("InstanceError")]}}},
        "required": ["predictions"],
    }
    example = EXAMPLES[route.path]
    body = {
        "schema": {"anyOf": [_ref(f"{route.schema}Request"), *flat, _ref(f"{route.schema}Batch")]},
        "examples": {"single": {"value": example}, "batch": {"value": {"instances": [example]}}},
    }
    success = {"description": route.meaning, "content": {"application/json": {"schema": {"anyOf": [answer, batch]}}}}
    return {
        **_head(route),
        "description": route.description,
        "requestBody": {"required": True, "content": {"application/json": body}},
        "responses": {str(route.success): success, **_problems(route)},
    }


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}
