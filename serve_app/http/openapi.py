"""OpenAPI 3.1 of the service, built from the msgspec schemas and the cards of the models in service."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serve_app.http.components import components
from serve_app.http.examples import EXAMPLES
from serve_app.http.meanings import explain

__all__ = ["document"]


_PREDICTIONS = {
    "predict/failure": (
        "Failure",
        "Predict a failure within the horizon",
        "A snapshot in `metrics`, or a row of a telemetry table as its JSON, is answered by the rules until enough snapshots "
        "of the resource have filled a window; a `time_series` of rows, oldest first, goes straight to the trained model. "
        "`model.kind` says which one answered. Rows with a `timestamp` are put on the model's steps: gaps stay gaps, the "
        "last row of a step counts.",
    ),
    "predict/threat": (
        "Threat",
        "Classify activity",
        "Any subset of the features; what is left out counts as not observed. A row of the table that trained the model is "
        "taken as its JSON: columns that the model does not use are ignored and named in `warnings`.",
    ),
    "predict/capacity": (
        "Capacity",
        "Forecast usage",
        "History by metric as a list, a scalar, a point or points with timestamps, or as rows of a usage table, oldest first; "
        "or only `current_metrics`.",
    ),
    "analyze/anomaly": (
        "Anomaly",
        "Find anomalies",
        "A snapshot, or a row of telemetry as its JSON, is judged by the training telemetry, a `time_series` by its own "
        "history.",
    ),
}

#: Answers that any route may give besides success.
_PROBLEMS = {
    "400": "The body is not JSON.",
    "404": "Unknown model, version, job, action or path.",
    "405": "Another method is meant.",
    "409": "Not possible in the present state, or the version could not be served: nothing was changed.",
    "413": "The body is too large.",
    "415": "The body is not application/json in UTF-8.",
    "422": "The body breaks a rule; `errors` lists paths and rules.",
    "502": "The webhook failed.",
    "503": "No model has been promoted yet, the registry cannot be reached, or the state folder cannot be written.",
}


def _problems(*codes: str) -> dict[str, Any]:
    body = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}}
    return {code: {"description": _PROBLEMS[code], "content": body} for code in codes}


def document(cards: Mapping[str, Any]) -> dict[str, Any]:
    """Return the OpenAPI document.

    Parameters
    ----------
    cards : mapping of str to mapping
        Features, classes and targets of the models in service, by task; routes whose model is missing are
        described without feature names.
    """
    from serve_app.http.api import PREFIX

    paths: dict[str, Any] = {}
    for route, (name, summary, text) in _PREDICTIONS.items():
        one = {"$ref": f"#/components/schemas/{name}Request"}
        many = {"$ref": f"#/components/schemas/{name}Batch"}
        flat = [{"$ref": "#/components/schemas/TelemetryRow"}] if name == "Failure" else []
        example = EXAMPLES[route]
        answer = {"$ref": f"#/components/schemas/{name}Answer"}
        batch = {
            "type": "object",
            "properties": {
                "predictions": {
                    "type": "array",
                    "items": {"anyOf": [answer, {"$ref": "#/components/schemas/InstanceError"}]},
                }
            },
            "required": ["predictions"],
        }
        paths[f"{PREFIX}/{route}"] = {
            "post": {
                "operationId": route.replace("/", "_"),
                "tags": ["predictions"],
                "summary": summary,
                "description": text,
                "requestBody": {
                    "required": True,
                    "content": {
                        "application/json": {
                            "schema": {"anyOf": [one, *flat, many]},
                            "examples": {"single": {"value": example}, "batch": {"value": {"instances": [example]}}},
                        }
                    },
                },
                "responses": {
                    "200": _json("The prediction, or `predictions` for a batch.", {"anyOf": [answer, batch]}),
                    **_problems("400", "413", "415", "422", "503"),
                },
            }
        }

    def get(
        route: str, summary: str, kind: str = "application/json", *, tag: str = "service", top: bool = False
    ) -> None:
        paths[f"/{route}" if top else f"{PREFIX}/{route}"] = {
            "get": {
                "operationId": "get_" + route.replace("/", "_"),
                "tags": [tag],
                "summary": summary,
                "responses": {"200": {"description": "OK", "content": {kind: {}}}, **_problems("503")},
            }
        }

    def post(route: str, summary: str, struct: str, ok: str, *problems: str, tag: str = "models") -> None:
        body = {"schema": {"$ref": f"#/components/schemas/{struct}"}, "example": EXAMPLES[route]}
        entry = {
            "operationId": route.replace("/", "_"),
            "tags": [tag],
            "summary": summary,
            "requestBody": {"required": True, "content": {"application/json": body}},
            "responses": {
                ok: _json("Done." if ok == "200" else "Accepted.", {"type": "object"}),
                **_problems(*problems),
            },
        }
        paths.setdefault(f"{PREFIX}/{route}", {})["post"] = entry

    get("health", "Is the service up?")
    get("metrics", "Prometheus metrics, summed over all replicas", "text/plain")
    get("actions", "Catalogue of remediation actions", tag="remediation")
    get("models/status", "Five models: three trained, two legacy", tag="models")
    get("models/versions", "Registered versions", tag="models")
    get("models/train", "Training jobs, newest first", tag="training")
    get("schema", "This document", top=True)
    get("docs", "Documentation page", "text/html", top=True)
    usual = ("400", "413", "415", "422")
    post(
        "models/train",
        "Train in a process of its own",
        "TrainRequest",
        "202",
        *usual,
        "404",
        "409",
        "503",
        tag="training",
    )
    post("models/register", "Register the servable of a run", "RegisterRequest", "201", *usual, "404", "409", "503")
    post("models/promote", "Make a version the champion", "PromoteRequest", "200", *usual, "404", "409", "503")
    post("models/rollback", "Go back to the previous champion", "RollbackRequest", "200", *usual, "404", "409", "503")
    post(
        "remediate", "Post a signed webhook, or say what would be posted", "RemediateRequest", "200", *usual,
        "404", "409", "502", tag="remediation",
    )  # fmt: skip
    job = {
        "name": "job_id",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "pattern": "^[0-9a-f]{12}$"},
        "example": "0123456789ab",
    }
    paths[f"{PREFIX}/models/train/{{job_id}}"] = {
        "parameters": [job],
        "get": {
            "operationId": "get_job",
            "tags": ["training"],
            "summary": "State, progress and result of a job",
            "responses": {"200": _json("The job.", {"type": "object"}), **_problems("404")},
        },
        "delete": {
            "operationId": "cancel_job",
            "tags": ["training"],
            "summary": "Cancel a job",
            "responses": {"202": _json("It is being cancelled.", {"type": "object"}), **_problems("404", "409", "503")},
        },
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "AIOps workbench",
            "version": "3",
            "description": "Failure, threat and capacity predictions by the registered champions. Numbers are finite JSON "
            'numbers; a batch is `{"instances": [...]}` with up to 10,000 instances; errors are RFC 9457 problem details.',
        },
        "paths": paths,
        "components": {"schemas": explain(components(cards))},
    }


def _json(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}
