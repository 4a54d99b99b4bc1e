"""What crosses the HTTP border: msgspec structs, units, ranges and examples.

Feature names are not written here: they travel in the servable's card, and `threat_request` builds the struct that a
card asks for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from aiops_core.units import UNITS

__all__ = [
    "EXAMPLES",
    "MAX_BODY",
    "MAX_INSTANCES",
    "MAX_SERIES",
    "UNIT_RANGE",
    "feature_range",
]

MAX_BODY = 64 * 1024 * 1024
MAX_INSTANCES = 10_000
#: Rows of a time series or history.
MAX_SERIES = 20_000
#: Any number beyond this is a mistake, and would not survive float32.
MAX_NUMBER = 1e15

#: Hard bounds by unit: what the quantity cannot exceed. Training ranges only warn.
UNIT_RANGE: dict[str, tuple[float, float]] = {
    "%": (0.0, 100.0),
    "score": (0.0, 1.0),
    "ops/s": (0.0, MAX_NUMBER),
    "MB/s": (0.0, MAX_NUMBER),
    "1/s": (0.0, MAX_NUMBER),
    "1/min": (0.0, MAX_NUMBER),
    "1/h": (0.0, MAX_NUMBER),
    "ms": (0.0, MAX_NUMBER),
    "bytes": (0.0, MAX_NUMBER),
    "bits": (0.0, MAX_NUMBER),
    "users": (0.0, MAX_NUMBER),
    "addresses": (0.0, MAX_NUMBER),
}


def feature_unit(feature: Mapping[str, Any]) -> str | None:
    """Return the unit of a card's feature: its own, else that of the default feature of the same name."""
    known = UNITS.get(str(feature.get("name")))
    unit = feature.get("unit") or (known.unit if known else None)
    return None if unit is None else str(unit)


def feature_range(feature: Mapping[str, Any]) -> tuple[float, float]:
    """Return the hard bounds of a card's feature, by its unit.

    A unit whose bounds the training data themselves break is not the unit meant, and bounds nothing.

    Examples
    --------
    >>> feature_range({"name": "cpu_usage", "unit": "%"})
    (0.0, 100.0)
    """
    everything = (-MAX_NUMBER, MAX_NUMBER)
    low, high = UNIT_RANGE.get(feature_unit(feature) or "", everything)
    reference = feature.get("reference") or {}
    fits = low <= reference.get("min", low) and reference.get("max", high) <= high
    return (low, high) if fits else everything


Id = Annotated[str, Meta(min_length=1, max_length=256, description="Name of the resource.", examples=["server-01"])]
Number = Annotated[float, Meta(ge=-MAX_NUMBER, le=MAX_NUMBER)]
Stamp = Annotated[
    str | Number,
    Meta(description="Time: ISO 8601 (UTC if it names no zone), or seconds since 1970."),
]
Row = dict[str, Number | None]


class Policy(Struct, forbid_unknown_fields=True, frozen=True):
    """When a probability becomes an alarm, instead of the threshold in the model's card."""

    rule: Literal["max_f1", "cost", "alert_budget"]
    cost_missed: Annotated[float, Meta(gt=0, le=MAX_NUMBER, description="Of a missed step; rule cost.")] = 10.0
    cost_false_alarm: Annotated[float, Meta(gt=0, le=MAX_NUMBER, description="Of a false alarm; rule cost.")] = 1.0
    alerts_per_day: Annotated[float, Meta(gt=0, le=MAX_NUMBER, description="Of a resource; rule alert_budget.")] = 1.0


class FailureRequest(Struct, forbid_unknown_fields=True):
    """One resource: a snapshot in `metrics`, or a window in `time_series`, oldest row first."""

    resource_id: Id
    metrics: Row | None = None
    time_series: Annotated[list[Row], Meta(min_length=1, max_length=MAX_SERIES)] | None = None
    timestamp: Stamp | None = None
    explain: bool | None = None
    decision: Policy | None = None


class FailureBatch(Struct, forbid_unknown_fields=True):
    """Up to 10,000 resources; an instance's own `decision` comes before that of the batch."""

    instances: Annotated[list[FailureRequest], Meta(min_length=1, max_length=MAX_INSTANCES)]
    decision: Policy | None = None
    explain: Annotated[bool, Meta(description="Name the drivers of every prediction.")] = False


class Point(Struct, forbid_unknown_fields=True):
    """One observation."""

    value: Number | None
    timestamp: Stamp | None = None


Series = Annotated[list[Number | None | Point], Meta(min_length=1, max_length=MAX_SERIES)]


class CapacityRequest(Struct, forbid_unknown_fields=True):
    """One resource: its history by metric, as lists, scalars or single points, or its `current_metrics`."""

    resource_id: Id
    historical_data: dict[str, Number | Series | Point] | None = None
    current_metrics: dict[str, Number | None] | None = None
    timestamps: Annotated[list[Stamp], Meta(min_length=1, max_length=MAX_SERIES)] | None = None
    forecast_days: Annotated[float, Meta(gt=0, le=365, description="Days ahead.")] = 7.0
    thresholds: dict[str, Number] | None = None
    explain: bool | None = None


class CapacityBatch(Struct, forbid_unknown_fields=True):
    """Up to 10,000 resources; at most 2,000,000 forecast points in all."""

    instances: Annotated[list[CapacityRequest], Meta(min_length=1, max_length=MAX_INSTANCES)]
    explain: Annotated[bool, Meta(description="Name the drivers of every prediction.")] = False


class AnomalyRequest(Struct, forbid_unknown_fields=True):
    """A snapshot in `metrics`, judged by the training telemetry, or a `time_series` judged by its own history."""

    resource_id: Id
    metrics: Row | None = None
    time_series: Annotated[list[Row], Meta(min_length=1, max_length=MAX_SERIES)] | None = None
    timestamp: Stamp | None = None
    sensitivity: (
        Annotated[float, Meta(ge=1.0, le=20.0, description="Robust standard deviations that count.")] | None
    ) = None


class AnomalyBatch(Struct, forbid_unknown_fields=True):
    """Up to 10,000 resources."""

    instances: Annotated[list[AnomalyRequest], Meta(min_length=1, max_length=MAX_INSTANCES)]


ModelName = Annotated[
    str, Meta(description="failure_predictor, threat_detector or capacity_forecaster.", examples=["threat_detector"])
]


class TrainRequest(Struct, forbid_unknown_fields=True):
    """Which models to train, on what."""

    models: Annotated[list[ModelName], Meta(min_length=1, max_length=3)] = msgspec.field(
        default_factory=lambda: ["failure_predictor", "threat_detector", "capacity_forecaster"]
    )
    use_synthetic_data: bool = True
    source: Annotated[str, Meta(min_length=1, max_length=512, description="Public set or folder of tables.")] | None = (
        None
    )
    n_samples: Annotated[int, Meta(ge=200, le=5_000_000, description="Synthetic examples of each task.")] | None = None
    trials: Annotated[int, Meta(ge=1, le=500, description="Search trials of each task.")] | None = None
    seed: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None


class PromoteRequest(Struct, forbid_unknown_fields=True):
    """Which version becomes the champion."""

    name: ModelName
    version: Annotated[int, Meta(ge=1, le=10**9)]


class RollbackRequest(Struct, forbid_unknown_fields=True):
    """Which model goes back to its previous champion."""

    name: ModelName


class RegisterRequest(Struct, forbid_unknown_fields=True):
    """A run that logged a servable, to be registered as a new version of a model."""

    name: ModelName
    run_id: Annotated[str, Meta(pattern="^[0-9a-f]{32}$", description="MLflow run.")]
    alias: Annotated[str, Meta(pattern="^(champion|challenger)$", description="Given to the new version.")] | None = (
        None
    )


class RemediateRequest(Struct, forbid_unknown_fields=True):
    """An action of the catalogue, for one resource."""

    action: Annotated[str, Meta(min_length=1, max_length=64, examples=["scale_horizontal"])]
    resource_id: Id
    dry_run: Annotated[bool, Meta(description="Say what would be sent, and send nothing.")] = True
    reason: Annotated[str, Meta(max_length=1000)] | None = None
    request_id: Annotated[str, Meta(max_length=128, description="The prediction that led to it.")] | None = None


class Driver(Struct):
    """One reason behind a prediction: positive raised the probability."""

    feature: str
    value: float | str | None
    contribution: float


class Model(Struct):
    """The model that answered."""

    name: str
    version: str | None
    run_id: str | None
    kind: Annotated[str, Meta(description="lstm, random_forest, xgboost, rule_based or statistical.")]
    trained_at: str | None


class Envelope(Struct):
    """What every prediction carries."""

    prediction: str
    probability: Annotated[float, Meta(ge=0, le=1)]
    confidence: Annotated[float, Meta(ge=0, le=1, description="See serve_app.answers.")]
    severity: Annotated[str, Meta(description="low, medium, high or critical.")]
    threshold: float | None
    drivers: list[Driver]
    recommended_actions: list[str]
    warnings: list[str]
    request_id: str
    model: Model


class FailureAnswer(Envelope):
    """Whether the resource will fail within the horizon."""

    resource_id: str
    horizon_seconds: int | None


class ThreatAnswer(Envelope):
    """Which class of activity it is."""

    source_ip: str | None
    probabilities: dict[str, float]
    attack_probability: Annotated[float, Meta(ge=0, le=1)]


class ForecastPoint(Struct):
    """One step ahead, in units of the metric."""

    timestamp: str
    p10: float
    p50: float
    p90: float


class Reach(Struct):
    """When the median forecast first reaches the threshold; null if not within the forecast."""

    threshold: float
    timestamp: str | None
    hours: float | None
    earliest_hours: Annotated[float | None, Meta(description="The same for the 90th percentile.")]


class Recommendation(Struct):
    """What to do about capacity."""

    action: Annotated[str, Meta(description="scale_up, plan_capacity, scale_down or maintain.")]
    metric: str | None
    reason: str


class CapacityAnswer(Envelope):
    """How much will be used, and when it reaches a threshold."""

    resource_id: str
    forecast: dict[str, list[ForecastPoint]]
    time_to_threshold: dict[str, Reach]
    recommendation: Recommendation


class AnomalyAnswer(Envelope):
    """Whether the newest row is unusual."""

    resource_id: str
    anomalies: list[dict[str, Any]]


class Predictions(Struct):
    """Answers of a batch, in the order of its instances."""

    predictions: list[dict[str, Any]]


class ProblemDetails(Struct):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    errors: list[dict[str, str]] | UnsetType = UNSET


#: Cost of deciding one class when another is true: ``{true: {decided: cost}}``.
Costs = dict[str, dict[str, Annotated[float, Meta(ge=0, le=MAX_NUMBER)]]]


def threat_request(features: Sequence[Mapping[str, Any]]) -> type[Struct]:
    """Build the struct of one activity row for a card's features.

    Numbers are decoded straight into their hard range; what is left out is NaN, which the model was trained to meet.
    Field order: features first, so that `msgspec.structs.astuple` starts with the model's row.
    """
    fields: list[tuple[str, Any, Any]] = []
    for feature in features:
        if feature.get("dtype") == "category":
            kind: Any = Annotated[str, Meta(max_length=256)] | None
            fields.append((feature["name"], kind, None))
        else:
            low, high = feature_range(feature)
            fields.append((feature["name"], Annotated[float, Meta(ge=low, le=high)] | None, math.nan))
    taken = {feature["name"] for feature in features}
    extra = Annotated[str, Meta(max_length=256)] | None
    fields += [(name, extra, None) for name in ("source_ip", "resource_id") if name not in taken]
    if "explain" not in taken:
        fields.append(("explain", bool | None, None))
    if "costs" not in taken:
        fields.append(("costs", Costs | None, None))
    return msgspec.defstruct("ThreatRequest", fields, forbid_unknown_fields=True, kw_only=True, gc=False)


_SNAPSHOT = {"cpu_usage": 85.5, "memory_usage": 78.2, "disk_io": 1200, "network_errors": 15}

#: One request for each POST route, word for word what the README shows.
EXAMPLES: dict[str, dict[str, Any]] = {
    "predict/failure": {"resource_id": "server-01", "metrics": _SNAPSHOT},
    "predict/threat": {
        "source_ip": "192.168.1.100",
        "failed_auth_count": 25,
        "request_rate": 1500,
        "unique_ips": 50,
    },
    "predict/capacity": {
        "resource_id": "server-01",
        "historical_data": {"cpu_usage": [52.1, 55.4, 61.0, 58.3], "memory_usage": [70.2, 70.9, 71.4, 72.0]},
        "forecast_days": 7,
    },
    "analyze/anomaly": {"resource_id": "server-01", "metrics": _SNAPSHOT},
    "models/train": {
        "models": ["failure_predictor", "threat_detector", "capacity_forecaster"],
        "use_synthetic_data": True,
        "n_samples": 1000,
    },
    "models/register": {"name": "threat_detector", "run_id": "6dd8e22a36884b418fa978f99e4db012"},
    "models/promote": {"name": "threat_detector", "version": 1},
    "models/rollback": {"name": "threat_detector"},
    "remediate": {"action": "scale_horizontal", "resource_id": "server-01", "dry_run": True},
}
