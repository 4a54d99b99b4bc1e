"""OpenAPI 3.1 of the service, built from the msgspec schemas and the cards of the models in service."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import msgspec

from serve_app import schemas
from serve_app.answers import span
from serve_app.meanings import explain
from serve_app.schemas import EXAMPLES, MAX_NUMBER, feature_range, feature_unit

__all__ = ["document"]

_STRUCTS: tuple[type, ...] = (
    schemas.FailureRequest,
    schemas.FailureBatch,
    schemas.CapacityRequest,
    schemas.CapacityBatch,
    schemas.AnomalyRequest,
    schemas.AnomalyBatch,
    schemas.TrainRequest,
    schemas.PromoteRequest,
    schemas.RollbackRequest,
    schemas.RegisterRequest,
    schemas.RemediateRequest,
    schemas.FailureAnswer,
    schemas.ThreatAnswer,
    schemas.CapacityAnswer,
    schemas.AnomalyAnswer,
    schemas.ProblemDetails,
)

_PREDICTIONS = {
    "predict/failure": (
        "Failure",
        "Predict a failure within the horizon",
        "A snapshot in `metrics` is answered by the rules until enough snapshots of the resource have filled a window; a "
        "`time_series`, oldest row first, goes straight to the trained model. `model.kind` says which one answered.",
    ),
    "predict/threat": (
        "Threat",
        "Classify activity",
        "Any subset of the features; what is left out counts as not observed.",
    ),
    "predict/capacity": (
        "Capacity",
        "Forecast usage",
        "History by metric as a list, a scalar, a point or points with timestamps, or only `current_metrics`.",
    ),
    "analyze/anomaly": (
        "Anomaly",
        "Find anomalies",
        "A snapshot is judged by the training telemetry, a `time_series` by its own history.",
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


def _feature_schema(feature: Mapping[str, Any]) -> dict[str, Any]:
    """Describe one feature: unit, hard range, training range, an example."""
    reference = feature.get("reference") or {}
    if feature.get("dtype") == "category":
        known = [str(c) for c in feature.get("categories") or []]
        return {
            "type": ["string", "null"],
            "maxLength": 256,
            "description": f"Category; learned: {', '.join(known[:40])}. Others are treated as rare ones.",
            "examples": known[:1],
        }
    low, high = feature_range(feature)
    text = f"Unit: {feature_unit(feature) or 'none stated'}."
    if "min" in reference and "max" in reference:
        text += f" Training range {span(reference['min'], reference['max'])}; outside it the answer carries a warning."
    schema: dict[str, Any] = {"type": ["number", "null"], "minimum": low, "maximum": high, "description": text}
    if reference.get("median") is not None:
        schema["examples"] = [reference["median"]]
    return schema


def _features(card: Mapping[str, Any]) -> dict[str, Any]:
    return {f["name"]: _feature_schema(f) for f in card["features"]}


def _metrics_object(card: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": _features(card), "additionalProperties": False}


def _any_metrics() -> dict[str, Any]:
    number = {"type": ["number", "null"], "minimum": -MAX_NUMBER, "maximum": MAX_NUMBER}
    return {"type": "object", "additionalProperties": number}


def _components(cards: Mapping[str, Any]) -> dict[str, Any]:
    _, parts = msgspec.json.schema_components(_STRUCTS, ref_template="#/components/schemas/{name}")
    parts = copy.deepcopy(dict(parts))
    snapshot = _metrics_object(cards["failure"]) if "failure" in cards else _any_metrics()
    for name in ("FailureRequest", "AnomalyRequest"):
        properties = parts[name]["properties"]
        properties["metrics"] = {
            "anyOf": [{"$ref": "#/components/schemas/Snapshot"}, {"type": "null"}],
            "default": None,
        }
        for branch in properties["time_series"]["anyOf"]:
            if branch.get("type") == "array":
                branch["items"] = {"$ref": "#/components/schemas/Snapshot"}
    parts["Snapshot"] = {**snapshot, "title": "Snapshot", "description": "Metrics of one resource at one time."}
    row = _features(cards["threat"]) if "threat" in cards else {}
    named = {"type": ["string", "null"], "maxLength": 256}
    cost = {"type": "number", "minimum": 0, "maximum": MAX_NUMBER}
    classes = {"propertyNames": {"enum": cards["threat"]["classes"]}} if "threat" in cards else {}
    costs = {
        "type": ["object", "null"],
        "description": "Cost of deciding a class when another is true, {true: {decided: cost}}; 1 where left out.",
        "additionalProperties": {"type": "object", "additionalProperties": cost, **classes},
        **classes,
    }
    parts["ThreatRequest"] = {
        "title": "ThreatRequest",
        "description": "One row of activity; at least one feature.",
        "type": "object",
        "properties": {
            "source_ip": {**named, "description": "Comes back in the answer.", "examples": ["192.168.1.100"]},
            "resource_id": named,
            "explain": {"type": ["boolean", "null"], "description": "Name the drivers; yes for a single row."},
            "costs": costs,
            **row,
        },
        "additionalProperties": not row,
    }
    parts["ThreatBatch"] = {
        "title": "ThreatBatch",
        "description": "Up to 10,000 rows.",
        "type": "object",
        "properties": {
            "instances": {
                "type": "array",
                "items": {"$ref": "#/components/schemas/ThreatRequest"},
                "minItems": 1,
                "maxItems": schemas.MAX_INSTANCES,
            },
            "explain": {"type": "boolean", "default": False},
            "costs": costs,
        },
        "required": ["instances"],
        "additionalProperties": False,
    }
    if "capacity" in cards:
        names = [f["name"] for f in cards["capacity"]["features"]]
        for name in ("historical_data", "current_metrics", "thresholds"):
            for branch in parts["CapacityRequest"]["properties"][name]["anyOf"]:
                if branch.get("type") == "object":
                    branch["propertyNames"] = {"enum": cards["capacity"]["targets"] if name == "thresholds" else names}
    return parts


def document(cards: Mapping[str, Any]) -> dict[str, Any]:
    """Return the OpenAPI document.

    Parameters
    ----------
    cards : mapping of str to mapping
        Features, classes and targets of the models in service, by task; routes whose model is missing are
        described without feature names.
    """
    from serve_app.api import PREFIX

    paths: dict[str, Any] = {}
    for route, (name, summary, text) in _PREDICTIONS.items():
        one = {"$ref": f"#/components/schemas/{name}Request"}
        many = {"$ref": f"#/components/schemas/{name}Batch"}
        example = EXAMPLES[route]
        answer = {"$ref": f"#/components/schemas/{name}Answer"}
        batch = {
            "type": "object",
            "properties": {"predictions": {"type": "array", "items": answer}},
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
                            "schema": {"anyOf": [one, many]},
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
        "components": {"schemas": explain(_components(cards))},
    }


def _json(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}
