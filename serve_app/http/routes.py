"""Every route, once: the application, the OpenAPI description and the README's list are drawn from this table.

``python -m serve_app.http.routes`` prints the list. A new route is one entry here, a method of
`serve_app.http.handlers.Handlers`, and a struct in `serve_app.wire.requests` if it takes a body.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from serve_app.guard.access import PUBLIC
from serve_app.wire.requests import (
    AlertsQuery,
    CanaryRequest,
    FeedbackRequest,
    JournalQuery,
    JudgeQuery,
    MuteRequest,
    PromoteRequest,
    RegisterRequest,
    RemediateRequest,
    RollbackRequest,
    ShadowRequest,
    TrainRequest,
)

__all__ = ["JOB", "PREDICTIONS", "PREFIX", "ROUTES", "Route", "listing"]

PREFIX = "/api/v3/aiops"
#: The path of one training job.
JOB = "models/train/{job_id}"
_OBJECT = {"type": "object"}
_BODY = (400, 408, 413, 415, 422)
_CHANGE = (*_BODY, 404, 409, 503)


@dataclass(frozen=True)
class Route:
    """One method of one path.

    Attributes
    ----------
    method, path : str
        The path lies below `PREFIX`.
    tag, summary, description : str
        For readers of the documentation.
    handler : str
        Name of the method of `Handlers`; predictions have none, the backend answers them.
    task : str
        Whose model answers a prediction.
    schema : str
        Of a prediction: what the names of its schemas begin with.
    request : type or None
        Struct of the body of any other POST.
    success : int
        Status.
    meaning : str
        What success means.
    shape : mapping or None
        JSON schema of a successful answer.
    problems : tuple of int
        Statuses of problems that the route may answer with.
    media : str
        Content type of a successful answer.
    top : bool
        Whether it is also found at ``/<path>``, which is where the documentation shows it.
    operation : str
        Operation id, if not made of method and path.
    scope : {"read", "predict", "operate", ""}
        What a caller's key must allow; the empty one is public.
    writes : bool
        Whether it is audited and takes an ``Idempotency-Key``, which whatever needs ``operate`` does.
    query : type or None
        Struct of the parameters of the query of a GET.
    repeatable : bool
        Of a write: whether doing it twice is the same as once.
    """

    method: str
    path: str
    tag: str
    summary: str
    handler: str = ""
    description: str = ""
    task: str = ""
    schema: str = ""
    request: type[msgspec.Struct] | None = None
    success: int = 200
    meaning: str = "OK"
    shape: Mapping[str, Any] | None = None
    problems: tuple[int, ...] = (503,)
    media: str = "application/json"
    top: bool = False
    operation: str = ""
    scope: str = "read"
    writes: bool = False
    query: type[msgspec.Struct] | None = None
    repeatable: bool = False

    def __post_init__(self) -> None:
        if self.scope == "operate":
            object.__setattr__(self, "writes", True)

    @property
    def shown(self) -> str:
        """The path that the documentation shows."""
        return f"/{self.path}" if self.top else f"{PREFIX}/{self.path}"


def _prediction(path: str, task: str, schema: str, summary: str, description: str) -> Route:
    meaning, problems = "The prediction, or `predictions` for a batch.", (*_BODY, 503)
    return Route(
        "POST", path, "predictions", summary, description=description, task=task, schema=schema, meaning=meaning,
        problems=problems, scope="predict",
    )  # fmt: skip


def _change(path: str, summary: str, request: type[msgspec.Struct], handler: str, **options: Any) -> Route:
    kept = {"tag": "models", "meaning": "Done.", "shape": _OBJECT, "problems": _CHANGE, "scope": "operate", **options}
    return Route("POST", path, summary=summary, request=request, handler=handler, **kept)


#: In the order of the documentation.
ROUTES: tuple[Route, ...] = (
    _prediction(
        "predict/failure",
        "failure",
        "Failure",
        "Predict a failure within the horizon",
        "A snapshot in `metrics`, or a row of a telemetry table as its JSON, is answered by the rules until enough snapshots "
        "of the resource have filled a window; a `time_series` of rows, oldest first, goes straight to the trained model. "
        "`model.kind` says which one answered. Rows with a `timestamp` are put on the model's steps: gaps stay gaps, the "
        "last row of a step counts.",
    ),
    _prediction(
        "predict/threat",
        "threat",
        "Threat",
        "Classify activity",
        "Any subset of the features; what is left out counts as not observed. A row of the table that trained the model is "
        "taken as its JSON: columns that the model does not use are ignored and named in `warnings`.",
    ),
    _prediction(
        "predict/capacity",
        "capacity",
        "Capacity",
        "Forecast usage",
        "History by metric as a list, a scalar, a point or points with timestamps, or as rows of a usage table, oldest first; "
        "or only `current_metrics`.",
    ),
    # The reference of the anomaly detector lies in the failure model's card.
    _prediction(
        "analyze/anomaly",
        "failure",
        "Anomaly",
        "Find anomalies",
        "A snapshot, or a row of telemetry as its JSON, is judged by the training telemetry, a `time_series` by its own "
        "history.",
    ),
    Route("GET", "health", "service", "Is the service up?", "health", scope=PUBLIC),
    Route("GET", "health/live", "service", "Does this process answer?", "live", problems=(), scope=PUBLIC),
    Route("GET", "health/ready", "service", "May requests be sent here? If not, 503 and why", "ready", scope=PUBLIC),
    Route("GET", "metrics", "service", "Prometheus metrics, summed over all replicas", "prometheus", media="text/plain"),
    Route("GET", "actions", "remediation", "Catalogue of remediation actions", "actions"),
    Route("GET", "models/status", "models", "Five models: three trained, two legacy", "models_status"),
    Route("GET", "models/versions", "models", "Registered versions", "versions"),
    Route("GET", "models/train", "training", "Training jobs, newest first", "train_list"),
    _change(
        "models/train", "Train in a process of its own", TrainRequest, "train", tag="training", success=202,
        meaning="Accepted.",
    ),
    Route("GET", "schema", "service", "OpenAPI 3.1 description", "schema", top=True,
          scope=PUBLIC),
    Route("GET", "docs", "service", "Documentation page (Swagger UI)", "docs", problems=(), media="text/html", top=True,
          scope=PUBLIC),
    Route("GET", "docs/{file}", "service", "Scripts and styles of that page", "docs_file", problems=(404,), media="*/*",
          top=True, scope=PUBLIC),
    _change(
        "models/register", "Register the servable of a run", RegisterRequest, "register", success=201,
        meaning="Accepted.",
    ),
    _change("models/promote", "Make a version the champion", PromoteRequest, "promote", repeatable=True),
    _change("models/rollback", "Go back to the previous champion", RollbackRequest, "rollback"),
    _change("models/shadow", "Let a version answer unheard beside the champion, or none", ShadowRequest, "shadow",
            repeatable=True),
    _change("models/canary", "Let a version answer a share of the requests, or none", CanaryRequest, "canary",
            repeatable=True),
    Route("GET", "models/judge", "models", "Which is better on live traffic, champion or candidate?", "judged",
          query=JudgeQuery, problems=(422, 503), shape=_OBJECT),
    _change(
        "remediate", "Post a signed webhook, or say what would be posted", RemediateRequest, "remediate",
        tag="remediation", problems=(*_BODY, 404, 409, 502),
    ),
    _change(
        "feedback", "Say what turned out true", FeedbackRequest, "feedback", tag="journal", scope="predict", writes=True,
        repeatable=True, meaning="How many statements were new, changed something, or were known.", problems=(*_BODY, 409, 503),
    ),
    Route("GET", "journal", "journal", "What was answered, the newest first", "journal", query=JournalQuery,
          problems=(422, 503), shape=_OBJECT),
    Route("GET", "alerts", "alerts", "Open alerts, the newest first, and what is muted", "alerts", query=AlertsQuery,
          problems=(422, 503), shape=_OBJECT),
    _change("alerts/mute", "Keep quiet about a task or a resource for a while", MuteRequest, "mute", tag="alerts",
            repeatable=True, problems=(*_BODY, 503)),
    Route(
        "GET", JOB, "training", "State, progress and result of a job", "train_get", meaning="The job.", shape=_OBJECT,
        problems=(404,), operation="get_job",
    ),
    Route(
        "DELETE", JOB, "training", "Cancel a job", "train_cancel", success=202, meaning="It is being cancelled.",
        shape=_OBJECT, problems=(404, 409, 503), operation="cancel_job", scope="operate",
    ),
)  # fmt: skip
#: Routes that the models answer, by path.
PREDICTIONS = {route.path: route for route in ROUTES if route.task}


def listing() -> str:
    """Return the table of routes as Markdown."""
    lines = ["| route | what for |", "| --- | --- |"]
    lines += [f"| `{route.method} {'/' if route.top else ''}{route.path}` | {route.summary} |" for route in ROUTES]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(listing() + "\n")
