"""Every metric of the service, once: the processes count by this table, and the README's is drawn from it.

``python -m serve_app.operations.catalogue`` prints the README's table. A new metric is one entry here.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

__all__ = ["CATALOGUE", "Family", "listing"]


@dataclass(frozen=True)
class Family:
    """One metric.

    Attributes
    ----------
    kind : {"counter", "gauge", "histogram"}
    labels : tuple of str
        The names that its samples may carry; their values are ours, never a client's text.
    text : str
        Its help text.
    """

    kind: str
    labels: tuple[str, ...]
    text: str


#: By name, in the order of the answer. The first four names are fixed, dashboards rely on them.
CATALOGUE: dict[str, Family] = {
    "aiops_predictions_total": Family(
        "counter", ("task", "kind", "prediction"), "Predictions answered, by task, kind of model and predicted label."
    ),
    "aiops_anomalies_detected_total": Family("counter", ("metric",), "Anomalies found by analyze/anomaly, by metric."),
    "aiops_remediations_executed_total": Family("counter", ("action",), "Remediation webhooks delivered, by action."),
    "aiops_uptime_seconds": Family("gauge", (), "Seconds since the oldest running replica started."),
    "aiops_requests_total": Family(
        "counter", ("route", "method", "status"), "HTTP requests, by route, method and status."
    ),
    "aiops_request_seconds": Family("histogram", ("route",), "Time to answer a request inside the replica, by route."),
    "aiops_requests_in_flight": Family("gauge", ("replica",), "Requests that a replica is answering now."),
    "aiops_queue_seconds": Family(
        "gauge", ("replica",), "How long a request waits in a replica before work on it begins, measured every second."
    ),
    "aiops_refusals_total": Family(
        "counter", ("route", "reason"), "Requests refused with a 4xx or 503, by route and reason."
    ),
    "aiops_limits_total": Family(
        "counter", ("limit",), "Requests refused by a limit: body (413), time (408), rate (429), queue (503 with Retry-After)."
    ),
    "aiops_key_requests_total": Family("counter", ("key",), "Requests let in, by name of the key in the keys file."),
    "aiops_model_info": Family(
        "gauge", ("model", "version", "kind", "replica"), "1 for the model version that a replica serves."
    ),
    "aiops_model_seconds": Family(
        "histogram", ("model", "version"), "Time of one call of a model, a batch counting once, by version."
    ),
    "aiops_companion_info": Family(
        "gauge", ("model", "version", "alias", "replica"), "1 for the shadow or canary that a replica has beside its champion."
    ),
    "aiops_canary_total": Family(
        "counter",
        ("model", "result"),
        "Instances that a canary was asked, by result: answered, or error and refused where the champion then answered.",
    ),
    "aiops_canary_stopped_total": Family(
        "counter", ("model",), "Canaries that the guard rails of a replica stopped, by model."
    ),
    "aiops_shadow_total": Family(
        "counter", ("model", "result"), "Answers of a shadow: answered, failed, or dropped because too many waited."
    ),
    "aiops_reloads_total": Family(
        "counter", ("model", "result"), "Models taken into service or refused, by model and result."
    ),
    "aiops_registry_up": Family(
        "gauge", ("replica",), "1 while the model registry answers the follower of the replica's node, 0 without a follower."
    ),
    "aiops_follower_up": Family("gauge", ("replica",), "1 while the follower of the replica's node runs."),
    "aiops_windows_forgotten_total": Family(
        "counter", (), "Resources whose snapshots were forgotten because more resources report than are kept."
    ),
    "aiops_jobs_total": Family("counter", ("event",), "Training jobs, by event."),
    "aiops_jobs": Family("gauge", ("state",), "Training jobs on record, by state; lost is one whose process is gone."),
    "aiops_retraining": Family(
        "gauge", ("task", "state"), "1 for how the last retraining of a task went: running, succeeded or failed."
    ),
    "aiops_remediations_refused_total": Family(
        "counter", ("action", "reason"), "Remediation webhooks that failed or were not configured."
    ),
    "aiops_errors_total": Family("counter", ("route", "type"), "Requests that ended in an internal error."),
    "aiops_alerts_open": Family("gauge", ("task",), "Alerts that are open, by task."),
    "aiops_alerts_total": Family("counter", ("task", "event"), "Alerts opened and closed, by task."),
    "aiops_alerts_dropped_total": Family("counter", (), "Answers that were not looked at for alerts: too many waited."),
    "aiops_alert_webhooks_total": Family(
        "counter", ("action", "result"), "Webhooks of alerts: sent, failed and tried again, given_up."
    ),
    "aiops_journal_records_total": Family("counter", ("task",), "Records written to the journal, by task."),
    "aiops_journal_dropped_total": Family(
        "counter", ("reason",), "Answers that are not in the journal: too many waited (queue) or it could not be written (disk)."
    ),
    "aiops_journal_bytes": Family("gauge", (), "Size of the journal."),
    "aiops_journal_oldest_seconds": Family("gauge", (), "Age of the oldest file of the journal."),
    "aiops_log_dropped_total": Family(
        "counter", ("to",), "Lines of the request log (file) and spans (otlp) that could not be written."
    ),
    "aiops_monitor_age_seconds": Family("gauge", (), "Seconds since the newest monitoring report; no sample without one."),
    "aiops_monitor_state": Family(
        "gauge", ("task",), "Verdict of monitoring: 0 fine, 1 watch, 2 act, -1 not judged."
    ),
    "aiops_monitor_drift_ratio": Family(
        "gauge", ("task",), "Largest drift of the newest day as a multiple of its threshold: above 1 it is certain."
    ),
    "aiops_monitor_drifted": Family(
        "gauge", ("task",), "Features, window statistics, scores and answers that moved away from the training data."
    ),
    "aiops_monitor_broken_sensors": Family("gauge", ("task",), "Sensors that say nothing, or always the same."),
    "aiops_monitor_quality": Family(
        "gauge", ("task", "metric", "source"), "Quality: estimated without labels, labelled, and promised by held-out rows."
    ),
    "aiops_monitor_alerts": Family("gauge", ("task",), "Alerts of the last day that monitoring saw."),
}  # fmt: skip


def listing() -> str:
    """Return the metrics as a Markdown table."""
    lines = ["| metric | kind | labels | what it says |", "| --- | --- | --- | --- |"]
    for name, family in CATALOGUE.items():
        labels = ", ".join(f"`{label}`" for label in family.labels) or "none"
        lines.append(f"| `{name}` | {family.kind} | {labels} | {family.text} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(listing() + "\n")
