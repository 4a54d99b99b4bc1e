"""What requests look like: msgspec structs.

Feature names are not written here: they travel in the servable's card, and `serve_app.answers.rows` builds the struct
that a card asks for.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from aiops_core.facts import MODELS
from serve_app.wire.features import MAX_NUMBER
from serve_app.wire.limits import MAX_ID, MAX_INSTANCES, MAX_METRICS, MAX_SERIES, MAX_STAMP

__all__ = [
    "AlertsQuery",
    "AnomalyBatch",
    "AnomalyRequest",
    "CanaryRequest",
    "CapacityBatch",
    "CapacityRequest",
    "Costs",
    "FailureBatch",
    "FailureRequest",
    "FeedbackRequest",
    "Id",
    "JournalQuery",
    "JudgeQuery",
    "ModelName",
    "MuteRequest",
    "Number",
    "Partial",
    "Point",
    "Policy",
    "PromoteRequest",
    "RegisterRequest",
    "RemediateRequest",
    "ResourceId",
    "RollbackRequest",
    "Row",
    "Series",
    "ShadowRequest",
    "Stamp",
    "Statement",
    "ThreatBatch",
    "TrainRequest",
]


Id = Annotated[str, Meta(min_length=1, max_length=MAX_ID, description="Name of the resource.", examples=["server-01"])]
#: Tables may name their resources by number; the answer then holds it as text.
ResourceId = Annotated[
    Annotated[str, Meta(min_length=1, max_length=MAX_ID)] | Annotated[int, Meta(ge=-(2**53), le=2**53)],
    Meta(description="Name of the resource.", examples=["server-01"]),
]
Number = Annotated[float, Meta(ge=-MAX_NUMBER, le=MAX_NUMBER)]
Stamp = Annotated[
    Annotated[str, Meta(max_length=MAX_STAMP)] | float,
    Meta(description="Time: ISO 8601 with an offset, such as 2026-01-31T12:00:00Z, or seconds since 1970."),
]
#: A row of a table: metrics, and beside them `resource_id`, `timestamp` and columns that the model does not use.
Row = Annotated[dict[str, float | str | bool | None], Meta(max_length=MAX_METRICS)]
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
    """Up to 10,000 resources; the answer may have 160 MB, about 1,700,000 forecast points."""

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
        default_factory=lambda: list(MODELS.values())
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


#: Guards against deciding on what has changed meanwhile.
Expected = Annotated[
    Annotated[int, Meta(ge=1, le=10**9)] | None,
    Meta(description="Version that is champion now; if another one is, nothing is changed and the answer is 409."),
]


class PromoteRequest(Struct, forbid_unknown_fields=True):
    """Which version becomes the champion."""

    name: ModelName
    version: Annotated[int, Meta(ge=1, le=10**9)]
    expected_version: Expected = None


class RollbackRequest(Struct, forbid_unknown_fields=True):
    """Which model goes back to its previous champion."""

    name: ModelName
    expected_version: Expected = None


#: Registered version that answers beside the champion.
Beside = Annotated[
    Annotated[int, Meta(ge=1, le=10**9)] | None,
    Meta(description="Which version; null for none any more."),
]


class ShadowRequest(Struct, forbid_unknown_fields=True):
    """Which version answers every request once more, unheard."""

    name: ModelName
    version: Beside
    expected_version: Expected = None


class CanaryRequest(Struct, forbid_unknown_fields=True):
    """Which version answers a share of the requests."""

    name: ModelName
    version: Beside
    share: Annotated[float, Meta(gt=0, lt=1, description="Of the requests, fixed by a hash of the resource.")] = 0.1
    expected_version: Expected = None


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


_Text = Annotated[str, Meta(min_length=1, max_length=MAX_ID)]


class Statement(Struct, forbid_unknown_fields=True):
    """What turned out true: a verdict or a class on an answer, an incident of a resource, or actual usage.

    Without `kind` it is told from the fields: `verdict`, `start` (an incident), `value` (usage), `label` (a class). The
    newest statement about the same thing counts.
    """

    kind: (
        Annotated[
            Literal["verdict", "incident", "class", "usage", "covered"],
            Meta(description="covered: incidents have been reported until `end`, of `resource_id` or of all."),
        ]
        | None
    ) = None
    request_id: Annotated[_Text, Meta(description="Of the answer, or of a batch whose `row` is named.")] | None = None
    row: Annotated[int, Meta(ge=0, lt=MAX_INSTANCES, description="Place in a batch, from 0.")] | None = None
    verdict: Literal["confirmed", "false_alarm", "expected", "new_trend", "missed"] | None = None
    label: Annotated[_Text, Meta(description="True class, or kind of the incident.")] | None = None
    resource_id: ResourceId | None = None
    start: Stamp | None = None
    end: Stamp | None = None
    timestamp: Stamp | None = None
    target: Annotated[_Text, Meta(description="Metric of the usage.")] | None = None
    value: Annotated[Number, Meta(description="Actual usage.")] | None = None
    task: Literal["failure", "threat", "capacity"] | None = None
    id: Annotated[_Text, Meta(description="Names the statement: sent again it changes nothing.")] | None = None
    withdrawn: Annotated[bool, Meta(description="Take back what was said about this.")] = False


class FeedbackRequest(Statement, forbid_unknown_fields=True):
    """One statement, or many in `feedback`: all of them are taken, or none."""

    feedback: Annotated[list[Statement], Meta(min_length=1, max_length=MAX_INSTANCES)] | None = None


_Task = Literal["failure", "threat", "capacity"]


class AlertsQuery(Struct, forbid_unknown_fields=True):
    """Which alerts."""

    state: Annotated[Literal["open", "closed", "all"], Meta(description="Open ones by default.")] = "open"
    task: _Task | None = None
    resource_id: Annotated[_Text, Meta(description="Only of this resource.")] | None = None
    limit: Annotated[int, Meta(ge=1, le=1000, description="Most alerts.")] = 100


class MuteRequest(Struct, forbid_unknown_fields=True):
    """What nobody wants to hear of for a while: a task, a resource, or a resource in one task."""

    task: Annotated[_Task | None, Meta(description="All tasks by default.")] = None
    resource_id: Annotated[Id | None, Meta(description="All resources by default.")] = None
    minutes: Annotated[float, Meta(ge=0, le=525_600, description="From now on; 0 ends it.")] = 60.0
    reason: Annotated[str, Meta(max_length=1000)] | None = None


class JudgeQuery(Struct, forbid_unknown_fields=True):
    """Which comparison."""

    task: Annotated[Literal["failure", "threat", "capacity"] | None, Meta(description="All by default.")] = None
    version: Annotated[
        Annotated[int, Meta(ge=1, le=10**9)] | None,
        Meta(description="Candidate, of one task; by default its canary, else its shadow."),
    ] = None
    since: Annotated[
        Annotated[str, Meta(max_length=MAX_STAMP)] | None, Meta(description="Event time from which answers count.")
    ] = None


class JournalQuery(Struct, forbid_unknown_fields=True):
    """Which records of the journal."""

    task: Literal["failure", "threat", "capacity"] | None = None
    resource_id: Annotated[_Text, Meta(description="Only of this resource.")] | None = None
    request_id: Annotated[_Text, Meta(description="Only of this answer, or of this batch.")] | None = None
    limit: Annotated[int, Meta(ge=1, le=1000, description="Most records.")] = 100


#: Cost of deciding one class when another is true: ``{true: {decided: cost}}``.
Costs = dict[str, dict[str, Annotated[float, Meta(ge=0, le=MAX_NUMBER)]]]


class ThreatBatch(Struct, forbid_unknown_fields=True):
    """Up to 10,000 rows of activity."""

    instances: Annotated[list[msgspec.Raw], Meta(min_length=1, max_length=MAX_INSTANCES)]
    explain: Annotated[bool, Meta(description="Name the drivers of every prediction.")] = False
    costs: Costs | None = None
    partial: Partial = False
