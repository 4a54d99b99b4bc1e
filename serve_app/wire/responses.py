"""What answers look like: msgspec structs, for the OpenAPI description."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType

__all__ = ["AnomalyAnswer", "CapacityAnswer", "Envelope", "FailureAnswer", "ProblemDetails", "ThreatAnswer"]


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
    alias: Annotated[
        str | None,
        Meta(description="What the version is to the service: champion or canary; null for untrained models."),
    ]
    recalibration: int | UnsetType = UNSET


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


class ProblemDetails(Struct):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    errors: list[dict[str, str]] | UnsetType = UNSET
    reasons: list[str] | UnsetType = UNSET
    warnings: list[str] | UnsetType = UNSET
