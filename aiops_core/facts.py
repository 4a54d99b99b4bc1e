"""What is fixed about each task, in one place: names that registries, tables, notebooks and the service share."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Facts:
    """Facts of one task.

    Attributes
    ----------
    task : str
        Short name, also of its package in `aiops_core.tasks`.
    model : str
        Registered name in MLflow.
    kind : str
        Kind of the model, as cards and answers say it.
    kind_words : str
        The same for a reader.
    title : str
        Of the task, for a reader.
    tables : tuple of str
        Contract tables it needs.
    notebook : str
        Stem of its notebook.
    """

    task: str
    model: str
    kind: str
    kind_words: str
    title: str
    tables: tuple[str, ...]
    notebook: str


#: By task, in the order of reports.
FACTS: dict[str, Facts] = {
    facts.task: facts
    for facts in (
        Facts(
            "failure", "failure_predictor", "lstm", "LSTM", "Failure prediction", ("telemetry", "incidents"),
            "02_failure_predictor",
        ),
        Facts(
            "threat", "threat_detector", "random_forest", "random forest", "Threat detection", ("activity",),
            "03_threat_detector",
        ),
        Facts(
            "capacity", "capacity_forecaster", "xgboost", "XGBoost", "Capacity forecast", ("usage",),
            "04_capacity_forecaster",
        ),
    )
}  # fmt: skip
TASKS: tuple[str, ...] = tuple(FACTS)
#: Sources that go by a name instead of a folder: made up, or public data sets.
SOURCES: tuple[str, ...] = ("synthetic", "cmapss", "nsl-kdd", "cicids2017", "datacenter-traces", "nab")
#: Task to registered model name, and back.
MODELS: dict[str, str] = {task: facts.model for task, facts in FACTS.items()}
BY_MODEL: dict[str, str] = {model: task for task, model in MODELS.items()}
