"""OpenAPI 3.1 of the service, built from the msgspec schemas and the cards of the models in service."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import msgspec

from serve_app import legacy, schemas
from serve_app.answers import span as between
from serve_app.meanings import explain
from serve_app.rows import ignored_of
from serve_app.schemas import EXAMPLES, MAX_NUMBER, feature_range, feature_unit
from serve_app.wording import span

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


def _feature_schema(feature: Mapping[str, Any]) -> dict[str, Any]:
    """Describe one feature: unit, hard range, training range, an example."""
    reference = feature.get("reference") or {}
    if feature.get("dtype") == "category":
        known = [str(c) for c in feature.get("categories") or []]
        return {
            "type": ["string", "null"],
            "maxLength": schemas.MAX_TEXT,
            "description": f"Category; learned: {', '.join(known[:40])}. Others are treated as rare ones.",
            "examples": known[:1],
        }
    low, high = feature_range(feature)
    text = f"Unit: {feature_unit(feature) or 'none stated'}."
    if "min" in reference and "max" in reference:
        text += (
            f" Training range {between(reference['min'], reference['max'])}; outside it the answer carries a warning."
        )
    kinds = ["number", "null", "boolean"] if feature.get("boolean") else ["number", "null"]
    schema: dict[str, Any] = {"type": kinds, "minimum": low, "maximum": high, "description": text}
    if reference.get("median") is not None:
        schema["examples"] = [reference["median"]]
    return schema


def _features(card: Mapping[str, Any]) -> dict[str, Any]:
    return {f["name"]: _feature_schema(f) for f in card["features"]}


def _unused(card: Mapping[str, Any]) -> dict[str, Any]:
    """Describe the columns that a row may carry although the model does not use them."""
    reasons = card.get("ignored") or {}
    found = {}
    for name in ignored_of(card):
        why = f" ({reasons[name]})" if reasons.get(name) else ""
        found[name] = {"type": ["string", "number", "boolean", "null"], "description": f"Not used by the model{why}."}
    return found


_ID = {"type": ["string", "integer"], "minLength": 1, "maxLength": 256, "description": "Name of the resource."}
_STAMP = {
    "type": ["string", "number", "null"],
    "description": "Time: ISO 8601 with an offset, such as 2026-01-31T12:00:00Z, or seconds since 1970.",
    "examples": ["2026-01-31T12:00:00Z"],
}


def _telemetry(parts: dict[str, Any], cards: Mapping[str, Any]) -> None:
    """Describe a row of telemetry: inside a request, and as a request of its own."""
    if "failure" in cards:
        card = cards["failure"]
        columns = {**_unused(card), **_features(card)}
        text = f"Metrics of one resource at one time. {_pace(card)}"
    else:
        columns = _features({"features": [{"name": name} for name in legacy.RULE_METRICS]})
        text = "Metrics of one resource at one time."
    timed = {"resource_id": {**_ID, "type": ["string", "integer", "null"]}, "timestamp": _STAMP}
    parts["Snapshot"] = {
        "title": "Snapshot",
        "description": text,
        "type": "object",
        "properties": {**timed, **columns},
        "additionalProperties": False,
    }
    controls = {
        "explain": {"type": ["boolean", "null"], "description": "Name the drivers; yes for a single row."},
        "decision": {"anyOf": [{"$ref": "#/components/schemas/Policy"}, {"type": "null"}], "default": None},
    }
    parts["TelemetryRow"] = {
        "title": "TelemetryRow",
        "description": f"A row of a telemetry table as its JSON: one snapshot. {text} A column that has the name of a field is the "
        "column.",
        "type": "object",
        "properties": {**controls, "resource_id": _ID, "timestamp": _STAMP, **columns},
        "required": ["resource_id"],
        "additionalProperties": False,
    }


def _pace(card: Mapping[str, Any]) -> str:
    """Say the step of a card's model, its window and horizon."""
    step = span(card["step_seconds"])
    window = f" Window: {card['window']} steps." if "window" in card else ""
    return f"The model's step is {step} ({card['step_seconds']} s).{window} Horizon: {card['horizon']} steps."


def _instance_error() -> dict[str, Any]:
    """Describe what stands in the place of a bad instance when a batch asks for `partial` answers."""
    error = {
        "type": "object",
        "properties": {
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "errors": {"type": "array", "items": {"type": "object", "additionalProperties": {"type": "string"}}},
        },
        "required": ["status", "detail", "errors"],
    }
    return {
        "title": "InstanceError",
        "description": "In place of the prediction of a bad instance, when a batch asks for partial answers.",
        "type": "object",
        "properties": {"error": error},
        "required": ["error"],
    }


def _components(cards: Mapping[str, Any]) -> dict[str, Any]:
    _, parts = msgspec.json.schema_components(_STRUCTS, ref_template="#/components/schemas/{name}")
    parts = copy.deepcopy(dict(parts))
    for name in ("FailureRequest", "AnomalyRequest"):
        properties = parts[name]["properties"]
        properties["metrics"] = {
            "anyOf": [{"$ref": "#/components/schemas/Snapshot"}, {"type": "null"}],
            "default": None,
        }
        for branch in properties["time_series"]["anyOf"]:
            if branch.get("type") == "array":
                branch["items"] = {"$ref": "#/components/schemas/Snapshot"}
    _telemetry(parts, cards)
    parts["InstanceError"] = _instance_error()
    for name in ("Failure", "Capacity", "Anomaly"):
        one = [{"$ref": f"#/components/schemas/{name}Request"}]
        if name == "Failure":
            one.append({"$ref": "#/components/schemas/TelemetryRow"})
        parts[f"{name}Batch"]["properties"]["instances"]["items"] = {"anyOf": one} if len(one) > 1 else one[0]
    row = {**_unused(cards["threat"]), **_features(cards["threat"])} if "threat" in cards else {}
    named = {"type": ["string", "number", "null"], "maxLength": 256}
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
        "description": "One row of activity as its JSON; at least one feature. A column that has the name of a field (explain, "
        "costs, source_ip, resource_id) is the column; explain and costs can then be given beside instances.",
        "type": "object",
        "properties": {
            "source_ip": {**named, "description": "Comes back in the answer.", "examples": ["192.168.1.100"]},
            "resource_id": named,
            "timestamp": {**_STAMP, "description": "Not used by the model."},
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
            "partial": parts["FailureBatch"]["properties"]["partial"],
        },
        "required": ["instances"],
        "additionalProperties": False,
    }
    if "capacity" in cards:
        parts["CapacityRequest"]["description"] += f" {_pace(cards['capacity'])}"
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
        "components": {"schemas": explain(_components(cards))},
    }


def _json(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}
