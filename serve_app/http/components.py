"""The schemas of the OpenAPI description: msgspec's, and those that follow the cards of the models in service."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import msgspec

from serve_app.answers import legacy
from serve_app.answers.envelope import between
from serve_app.answers.rows import ignored_of
from serve_app.http.routes import ROUTES
from serve_app.wire import requests, responses
from serve_app.wire.features import MAX_NUMBER, feature_range, feature_unit
from serve_app.wire.limits import MAX_ID, MAX_INSTANCES, MAX_METRICS, MAX_NAME, MAX_TEXT
from serve_app.wire.wording import span

__all__ = ["FLAT", "components"]

#: Rows of a table that are a request by themselves, by the route's schema.
FLAT = {"Failure": "TelemetryRow", "Anomaly": "ObservationRow"}

_STRUCTS: tuple[type, ...] = (
    requests.FailureRequest,
    requests.FailureBatch,
    requests.CapacityRequest,
    requests.CapacityBatch,
    requests.AnomalyRequest,
    requests.AnomalyBatch,
    *(route.request for route in ROUTES if route.request is not None),
    responses.FailureAnswer,
    responses.ThreatAnswer,
    responses.CapacityAnswer,
    responses.AnomalyAnswer,
    responses.ProblemDetails,
)


def _feature_schema(feature: Mapping[str, Any]) -> dict[str, Any]:
    """Describe one feature: unit, hard range, training range, an example."""
    reference = feature.get("reference") or {}
    if feature.get("dtype") == "category":
        known = [str(c) for c in feature.get("categories") or []]
        return {
            "type": ["string", "null"],
            "maxLength": MAX_TEXT,
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


_ID = {"type": ["string", "integer"], "minLength": 1, "maxLength": MAX_ID, "description": "Name of the resource."}
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
    _observations(parts)


def _observations(parts: dict[str, Any]) -> None:
    """Describe what is searched for anomalies: a row that may hold other metrics than the model's."""
    free = {
        "additionalProperties": {"type": ["number", "null"], "minimum": -MAX_NUMBER, "maximum": MAX_NUMBER},
        "propertyNames": {"maxLength": MAX_NAME},
        "maxProperties": MAX_METRICS,
    }
    other = "Any other metric may be among them, and is judged by its own past."
    snapshot = parts["Snapshot"]
    parts["Observation"] = {
        **snapshot,
        "title": "Observation",
        "description": f"{snapshot['description']} {other}",
        **free,
    }
    sensitivity = parts["AnomalyRequest"]["properties"]["sensitivity"]
    parts["ObservationRow"] = {
        **parts["Observation"],
        "title": "ObservationRow",
        "description": f"A row of a telemetry table as its JSON. {parts['Observation']['description']}",
        "properties": {"sensitivity": sensitivity, **snapshot["properties"], "resource_id": _ID},
        "required": ["resource_id"],
    }


def _pace(card: Mapping[str, Any]) -> str:
    """Say the step of a card's model, its window and horizon, and what it derives."""
    step = span(card["step_seconds"])
    window = f" Window: {card['window']} steps." if "window" in card else ""
    return f"The model's step is {step} ({card['step_seconds']} s).{window} Horizon: {card['horizon']} steps.{_derived(card)}"


def _derived(card: Mapping[str, Any]) -> str:
    """Say what the model derives of the columns by itself."""
    found = [f"{feature['name']} = {feature['expression']}" for feature in card.get("derived", [])]
    return f" The model derives {'; '.join(found)}." if found else ""


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


def _activity(parts: dict[str, Any], cards: Mapping[str, Any]) -> None:
    """Describe a row of activity, and a batch of them."""
    row = {**_unused(cards["threat"]), **_features(cards["threat"])} if "threat" in cards else {}
    named = {"type": ["string", "number", "null"], "maxLength": MAX_ID}
    cost = {"type": "number", "minimum": 0, "maximum": MAX_NUMBER}
    classes = {"propertyNames": {"enum": cards["threat"]["classes"]}} if "threat" in cards else {}
    derives = _derived(cards["threat"]) if "threat" in cards else ""
    costs = {
        "type": ["object", "null"],
        "description": "Cost of deciding a class when another is true, {true: {decided: cost}}; 1 where left out.",
        "additionalProperties": {"type": "object", "additionalProperties": cost, **classes},
        **classes,
    }
    parts["ThreatRequest"] = {
        "title": "ThreatRequest",
        "description": "One row of activity as its JSON; at least one feature. A column that has the name of a field (explain, "
        "costs, source_ip, resource_id) is the column; explain and costs can then be given beside instances." + derives,
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
                "maxItems": MAX_INSTANCES,
            },
            "explain": {"type": "boolean", "default": False},
            "costs": costs,
            "partial": parts["FailureBatch"]["properties"]["partial"],
        },
        "required": ["instances"],
        "additionalProperties": False,
    }


def _usage(parts: dict[str, Any], card: Mapping[str, Any]) -> None:
    """Name the metrics that a capacity request may hold."""
    parts["CapacityRequest"]["description"] += f" {_pace(card)}"
    names = [f["name"] for f in card["features"]]
    for name in ("historical_data", "current_metrics", "thresholds"):
        for branch in parts["CapacityRequest"]["properties"][name]["anyOf"]:
            if branch.get("type") == "object":
                branch["propertyNames"] = {"enum": card["targets"] if name == "thresholds" else names}


def components(cards: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schemas by name.

    Parameters
    ----------
    cards : mapping of str to mapping
        As for `serve_app.http.openapi.describe`.
    """
    _, parts = msgspec.json.schema_components(_STRUCTS, ref_template="#/components/schemas/{name}")
    parts = copy.deepcopy(dict(parts))
    for name, row in (("FailureRequest", "Snapshot"), ("AnomalyRequest", "Observation")):
        properties = parts[name]["properties"]
        properties["metrics"] = {"anyOf": [{"$ref": f"#/components/schemas/{row}"}, {"type": "null"}], "default": None}
        for branch in properties["time_series"]["anyOf"]:
            if branch.get("type") == "array":
                branch["items"] = {"$ref": f"#/components/schemas/{row}"}
    _telemetry(parts, cards)
    parts["InstanceError"] = _instance_error()
    for name in ("Failure", "Capacity", "Anomaly"):
        one = [{"$ref": f"#/components/schemas/{name}Request"}]
        if name in FLAT:
            one.append({"$ref": f"#/components/schemas/{FLAT[name]}"})
        parts[f"{name}Batch"]["properties"]["instances"]["items"] = {"anyOf": one} if len(one) > 1 else one[0]
    _activity(parts, cards)
    if "capacity" in cards:
        _usage(parts, cards["capacity"])
    return parts
