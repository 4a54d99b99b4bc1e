"""What crosses the HTTP border: msgspec structs, units, ranges and examples.

Feature names are not written here: they travel in the servable's card, and `serve_app.rows` builds the struct that a
card asks for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from aiops_core.units import UNITS

__all__ = [
    "EXAMPLES",
    "MAX_BODY",
    "MAX_INSTANCES",
    "MAX_SERIES",
    "MAX_TEXT",
    "UNIT_RANGE",
    "feature_range",
]

MAX_BODY = 64 * 1024 * 1024
MAX_INSTANCES = 10_000
#: Rows of a time series or history.
MAX_SERIES = 20_000
#: Characters of a category.
MAX_TEXT = 10_000
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

    A unit whose bounds the table that trained the model breaks is not the unit meant, and bounds nothing.

    Examples
    --------
    >>> feature_range({"name": "cpu_usage", "unit": "%"})
    (0.0, 100.0)
    """
    reference = feature.get("reference") or {}
    least, most = feature.get("seen") or (reference.get("min", 0.0), reference.get("max", 0.0))
    everything = (min(-MAX_NUMBER, least), max(MAX_NUMBER, most))
    low, high = UNIT_RANGE.get(feature_unit(feature) or "", everything)
    return (low, high) if (low <= least and most <= high) else everything


Id = Annotated[str, Meta(min_length=1, max_length=256, description="Name of the resource.", examples=["server-01"])]
#: Tables may name their resources by number; the answer then holds it as text.
ResourceId = Annotated[
    Annotated[str, Meta(min_length=1, max_length=256)] | int,
    Meta(description="Name of the resource.", examples=["server-01"]),
]
Number = Annotated[float, Meta(ge=-MAX_NUMBER, le=MAX_NUMBER)]
Stamp = Annotated[
    str | float,
    Meta(description="Time: ISO 8601 with an offset, such as 2026-01-31T12:00:00Z, or seconds since 1970."),
]
#: A row of a table: metrics, and beside them `resource_id`, `timestamp` and columns that the model does not use.
Row = dict[str, float | str | bool | None]
Partial = Annotated[bool, Meta(description="Answer the good instances, and say in place of the others what is wrong.")]


class Policy(Struct, forbid_unknown_fields=True, frozen=True):
    """When a probability becomes an alarm, instead of the threshold in the model's card."""

    rule: Literal["max_f1", "cost", "alert_budget"]
    cost_missed: Annotated[float, Meta(gt=0, le=MAX_NUMBER, description="Of a missed step; rule cost.")] = 10.0
    cost_false_alarm: Annotated[float, Meta(gt=0, le=MAX_NUMBER, description="Of a false alarm; rule cost.")] = 1.0
    alerts_per_day: Annotated[float, Meta(gt=0, le=MAX_NUMBER, description="Of a resource; rule alert_budget.")] = 1.0


class FailureRequest(Struct, forbid_unknown_fields=True):
    """One resource: a snapshot in `metrics`, or a window in `time_series`, oldest row first.

    Rows may carry their `timestamp`: then they are put on the model's steps, and gaps stay gaps.
    """

    resource_id: ResourceId
    metrics: Row | None = None
    time_series: Annotated[list[Row], Meta(min_length=1, max_length=MAX_SERIES)] | None = None
    timestamp: Stamp | None = None
    explain: bool | None = None
    decision: Policy | None = None


class FailureBatch(Struct, forbid_unknown_fields=True):
    """Up to 10,000 resources; an instance's own `decision` comes before that of the batch."""

    instances: Annotated[list[msgspec.Raw], Meta(min_length=1, max_length=MAX_INSTANCES)]
    decision: Policy | None = None
    explain: Annotated[bool, Meta(description="Name the drivers of every prediction.")] = False
    partial: Partial = False


class Point(Struct, forbid_unknown_fields=True):
    """One observation."""

    value: Number | None
    timestamp: Stamp | None = None


Series = Annotated[list[Number | None | Point], Meta(min_length=1, max_length=MAX_SERIES)]


class CapacityRequest(Struct, forbid_unknown_fields=True):
    """One resource: its history, by metric as lists, scalars or points or as rows of a table, or its `current_metrics`.

    Rows and points come oldest first.
    """

    resource_id: ResourceId
    historical_data: (
        dict[str, Number | Series | Point] | Annotated[list[Row], Meta(min_length=1, max_length=MAX_SERIES)] | None
    ) = None
    current_metrics: dict[str, Number | None] | None = None
    timestamps: Annotated[list[Stamp], Meta(min_length=1, max_length=MAX_SERIES)] | None = None
    forecast_days: Annotated[float, Meta(gt=0, le=365, description="Days ahead.")] = 7.0
    thresholds: dict[str, Number] | None = None
    explain: bool | None = None


class CapacityBatch(Struct, forbid_unknown_fields=True):
    """Up to 10,000 resources; at most 2,000,000 forecast points in all."""

    instances: Annotated[list[msgspec.Raw], Meta(min_length=1, max_length=MAX_INSTANCES)]
    explain: Annotated[bool, Meta(description="Name the drivers of every prediction.")] = False
    partial: Partial = False


class AnomalyRequest(Struct, forbid_unknown_fields=True):
    """A snapshot in `metrics`, judged by the training telemetry, or a `time_series` judged by its own history.

    Rows come oldest first and may carry their `timestamp`.
    """

    resource_id: ResourceId
    metrics: Row | None = None
    time_series: Annotated[list[Row], Meta(min_length=1, max_length=MAX_SERIES)] | None = None
    timestamp: Stamp | None = None
    sensitivity: (
        Annotated[float, Meta(ge=1.0, le=20.0, description="Robust standard deviations that count.")] | None
    ) = None


class AnomalyBatch(Struct, forbid_unknown_fields=True):
    """Up to 10,000 resources."""

    instances: Annotated[list[msgspec.Raw], Meta(min_length=1, max_length=MAX_INSTANCES)]
    partial: Partial = False


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
    promote: Annotated[
        bool,
        Meta(
            description="Let what passes the gate replace the champion; otherwise it becomes a challenger, or champion of "
            "a task that has none."
        ),
    ] = False


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


Share = Annotated[float, Meta(ge=0, le=1)]
_CONFIDENCE = (
    "Probability that the stated prediction is right, lowered by input that is missing or outside the training range and "
    "for models that are not calibrated; a warning says by what."
)


class Envelope(Struct):
    """What every prediction carries."""

    prediction: str
    probability: Share
    confidence: Annotated[float, Meta(ge=0, le=1, description=_CONFIDENCE)]
    severity: Annotated[
        str,
        Meta(
            description="low: no alarm; medium: an alarm that is more likely false; high: any other; critical: act at once."
        ),
    ]
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
    """When the median forecast first reaches the threshold, 0 h if the latest value has; null if not within it."""

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
    """How much will be used, and when it reaches a threshold; `forecast_only` where no threshold is known."""

    probability: Annotated[  # type: ignore[assignment]
        Share | None,
        Meta(
            description="The largest, over the steps ahead, of the chance that the step lies above its threshold; null "
            "without a threshold."
        ),
    ]
    confidence: Annotated[Share | None, Meta(description=_CONFIDENCE)]  # type: ignore[assignment]
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


class ThreatBatch(Struct, forbid_unknown_fields=True):
    """Up to 10,000 rows of activity."""

    instances: Annotated[list[msgspec.Raw], Meta(min_length=1, max_length=MAX_INSTANCES)]
    explain: Annotated[bool, Meta(description="Name the drivers of every prediction.")] = False
    costs: Costs | None = None
    partial: Partial = False


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
