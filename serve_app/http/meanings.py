"""What the fields of requests and answers mean, for those whose schema does not say it itself."""

from __future__ import annotations

from typing import Any

__all__ = ["explain"]

#: By field, or by schema and field where a name has several meanings.
MEANINGS: dict[str, str] = {
    # Requests
    "alias": "Given to the new version.",
    "costs": "Cost of deciding a class when another is true.",
    "current_metrics": "Newest value of each metric, instead of a history.",
    "decision": "When a probability becomes an alarm, instead of the model's own threshold.",
    "end": "When the incident was over, or until when incidents have been reported.",
    "explain": "Name the drivers; yes for a single instance, no in a batch.",
    "feedback": "Several statements: all are taken, or none.",
    "historical_data": "History by metric, oldest value first.",
    "instances": "What to predict for, in the order of the answers.",
    "metrics": "A snapshot: metrics of the resource at one time.",
    "models": "Which models to train.",
    "n_samples": "Synthetic examples of each task.",
    "reason": "Why, in words.",
    "resource_id": "Name of the resource; comes back in the answer.",
    "rule": "How the threshold is chosen: best F1, least cost, or so many alerts a day.",
    "run_id": "MLflow run.",
    "seed": "Of the random numbers; the same seed gives the same models.",
    "sensitivity": "Robust standard deviations that count as an anomaly.",
    "source": "Public data set or folder of tables.",
    "source_ip": "Comes back in the answer.",
    "start": "When the incident began.",
    "task": "Whose answer the verdict is about, where request ids do not tell.",
    "thresholds": "What counts as full, by metric; 85 for a metric in %, none for others.",
    "time_series": "A window of rows, oldest first.",
    "timestamps": "Of the values of every metric, oldest first.",
    "trials": "Search trials of each task.",
    "use_synthetic_data": "Train on synthetic data where no source is named.",
    "Point.value": "In the unit of the metric; null if it was not observed.",
    "verdict": "Was the answer right? expected and new_trend: unusual, and no failure or attack.",
    "PromoteRequest.version": "Number of the registered version.",
    "RemediateRequest.action": "Id from the catalogue of actions.",
    # Answers
    "anomalies": "Every unusual value: metric, row, value, expected value and range, score.",
    "attack_probability": "Probability that the activity is not normal.",
    "contribution": "Positive raised the probability, negative lowered it.",
    "drivers": "What moved the prediction most, strongest first.",
    "feature": "Name of the feature.",
    "forecast": "Bands by metric, one point for each step ahead.",
    "horizon_seconds": "How far ahead the model looks; null while no model is trained.",
    "model": "Which model answered.",
    "prediction": "The stated outcome.",
    "probabilities": "Of every class; they sum to 1.",
    "probability": "Of the bad event, 0 to 1.",
    "recommendation": "What to do about capacity, and why.",
    "recommended_actions": "Ids from the catalogue of actions, most effective first.",
    "request_id": "Of the request, as in the header x-request-id.",
    "threshold": "Probability from which the bad event is predicted.",
    "time_to_threshold": "When the median forecast crosses, by metric that has a threshold.",
    "recalibration": "Number of the correction from feedback that is in effect; absent without one.",
    "trained_at": "When the model was trained.",
    "version": "Registered version; null for a model that is not trained.",
    "warnings": "What a careful reader of the answer should know.",
    "AnomalyAnswer.probability": "Grows with the score, 0.5 at the threshold; not calibrated.",
    "AnomalyAnswer.threshold": "Score, in robust standard deviations, above which a value is an anomaly.",
    "CapacityAnswer.prediction": "threshold_reached, within_capacity, or forecast_only where no threshold is known.",
    "CapacityAnswer.threshold": "Probability from which a crossing is predicted; null where no threshold is known.",
    "Driver.value": "What the request gave.",
    "Model.name": "Registered name.",
    "Model.run_id": "MLflow run that trained it.",
    "Reach.hours": "The same in hours from the last value.",
    "Reach.threshold": "In the unit of the metric.",
    "Reach.timestamp": "When the median forecast first reaches the threshold.",
    "Recommendation.metric": "The metric that it is about.",
    "ThreatAnswer.probability": "Of the predicted class; of the likeliest one for unknown.",
    "ThreatAnswer.threshold": "Probability that the class needs against normal alone; null for unknown.",
    "p10": "Lower edge of the 80 % band.",
    "p50": "Median.",
    "p90": "Upper edge of the 80 % band.",
    # Problem details
    "detail": "What is wrong and what to do, in a sentence or two.",
    "error": "What is wrong with the instance: status, detail and errors.",
    "errors": "Every place that breaks a rule: path and rule.",
    "instance": "Path of the request.",
    "reasons": "Of health/ready: why requests should not be sent here.",
    "status": "HTTP status.",
    "title": "Kind of problem.",
    "timestamp": "Time: ISO 8601 or seconds since 1970.",
    "type": "Always about:blank: the status says it.",
}


def explain(parts: dict[str, Any]) -> dict[str, Any]:
    """Return the schemas of an OpenAPI description with a description for every field.

    Parameters
    ----------
    parts : dict of str to dict
        Schemas by name; changed in place.
    """
    for struct, part in parts.items():
        for name, field in part.get("properties", {}).items():
            if "description" not in field:
                inner = (branch.get("description") for branch in field.get("anyOf", []))
                found = MEANINGS.get(f"{struct}.{name}") or next(filter(None, inner), None) or MEANINGS.get(name)
                if found:
                    field["description"] = found
    return parts
