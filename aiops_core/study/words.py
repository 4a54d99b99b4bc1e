"""What is said about a result: verdicts, warnings, next steps, and how a number is written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from aiops_core.facts import FACTS, MODELS
from aiops_core.judge import intervals, metrics

TASK_WORDS = {task: facts.title for task, facts in FACTS.items()}
METRIC_WORDS = metrics.WORDS
KIND_WORDS = {facts.kind: facts.kind_words for facts in FACTS.values()}
#: Below so many incidents in the test part a figure says more about chance than about the model.
FEW_INCIDENTS = 10


def best_baseline(section: Mapping[str, Any]) -> tuple[str, Mapping[str, float] | None]:
    """Return name and main metric of a section's best baseline."""
    main = section["main_metric"]
    values = {name: m[main] for name, m in section["baselines"].items() if m.get(main, {}).get("value") is not None}
    if not values:
        return "", None
    best = min if main in intervals.LOWER_IS_BETTER else max
    name = best(values, key=lambda n: values[n]["value"])
    return name, values[name]


def few_incidents(section: Mapping[str, Any]) -> str | None:
    """Return the warning that belongs in place of a number when the test part holds too few incidents, else None."""
    count = (section.get("data") or {}).get("test_incidents")
    if count is None or count >= FEW_INCIDENTS:
        return None
    some = "no incident" if count == 0 else "1 incident" if count == 1 else f"{count} incidents"
    return f"Only {some} in the test part: no figure of this model is reliable."


def verdict_words(section: Mapping[str, Any]) -> str:
    """Say in a few sentences what the gate made of a model and how good it is; a model not served says first why."""
    if section["status"] != "trained":
        return f"{section['status'].capitalize()}: {section['reason']}."
    main = section["main_metric"]
    metric, value = METRIC_WORDS[main], section["metrics"][main]
    name, best = best_baseline(section)
    words = f"{metric} {with_interval(value)}"
    if best:
        words += f"; best baseline, {name}, {best['value']:.3f}"
    if section["oracle"]:
        words += f"; the oracle reaches {section['oracle'][main]['value']:.3f}{share_words(section)}"
    few = few_incidents(section)
    words = f"{few} {words}" if few else words
    if section["gate"]["decision"] == "champion":
        return f"{words}. {outcome_words(section)}"
    by_hand = ""
    if section["gate"]["decision"] == "challenger":
        by_hand = f" To serve it all the same: aiops models promote {section['model']} {section['model_version']}."
    return f"{outcome_words(section)}{by_hand} {words}."


def outcome_words(section: Mapping[str, Any]) -> str:
    """Say what the gate made of a trained model, the one reason that decided, and what can be done about it."""
    gate = section["gate"]
    if gate["decision"] == "champion":
        return "It passes the gate and is the model to serve."
    outcome = "Registered as challenger, not served" if gate["decision"] == "challenger" else "Refused, not registered"
    return f"{outcome}: it {gate['reasons'][0]}. {gate['advice']}"


def share_words(section: Mapping[str, Any]) -> str:
    """Say how much of the way from a naive baseline to the oracle a model goes, as the end of a sentence."""
    share = share_of_way(section)
    return f", and the model goes {share} of the way there from {section['share_of_oracle']['naive']}" if share else ""


def share_of_way(section: Mapping[str, Any]) -> str:
    """Return the share of the way from a naive baseline to the oracle with its interval, empty where there is none."""
    share = section.get("share_of_oracle") or {}
    # Undefined where the oracle is no better: NaN, or null once it was written.
    if share.get("value") is None or math.isnan(share["value"]):
        return ""
    found, low, high = (f"{share[key]:.0%}" for key in ("value", "low", "high"))
    return f"{found} ({low} to {high})"


def rows_words(section: Mapping[str, Any]) -> str:
    """Say how many rows a section's parts have, so that they add up: rows may validate out of fold, and train as well."""
    data = section["data"]
    total, train, validation, test = (data[f"{name}rows"] for name in ("", "train_", "validation_", "test_"))
    if "origins" in data:
        # The parts are pairs of origin and step, of which one row of a table makes many.
        band = data.get("calibration_rows", 0)  # a report of an older version has none
        calibrates = f"{band:,} for the width of the band, " if band else ""
        return (
            f"{total:,} rows of usage make {train + validation + band + test:,} forecast values: {train:,} for training, "
            f"{validation:,} for validation, {calibrates}{test:,} for the test, scored through the servable."
        )
    if train + validation + test <= total:
        return (
            f"{total:,} rows: {train:,} for training, {validation:,} for validation, {test:,} for the test, scored "
            "through the servable."
        )
    some = "all of them" if validation == train else f"{validation:,} of them"
    return (
        f"{total:,} rows: {train:,} for training and {test:,} for the test, scored through the servable. Training rows "
        f"also validate, {some}, out of fold: each is judged by a model that was fitted without its part."
    )


def looks_words(section: Mapping[str, Any]) -> str:
    """Say how often a section's test rows have been scored in this registry."""
    looks = section.get("test_looks") or 1
    if looks == 1:
        return "This test set has been scored once."
    return (
        f"This test set has been scored {looks} times: what was chosen after a look at earlier scores makes these "
        "figures optimistic."
    )


def next_steps(content: Mapping[str, Any]) -> list[str]:
    """Return what a reader should do with the result."""
    steps = []
    decisions = {
        task: section["gate"]["decision"]
        for task, section in content["tasks"].items()
        if section["status"] == "trained"
    }
    served = [MODELS[t] for t, d in decisions.items() if d == "champion"]
    if served:
        steps.append(f"Serve {', '.join(served)}: <code>make serve</code>.")
    for task, decision in decisions.items():
        if decision == "challenger":
            version = content["tasks"][task]["model_version"]
            steps.append(
                f"{MODELS[task]} version {version} waits as challenger; after a look at its page below, "
                f"<code>aiops models promote {MODELS[task]} {version}</code> makes it the champion."
            )
        if decision == "refused":
            steps.append(
                f"{MODELS[task]} learned nothing worth serving: look at its data below, bring more or other features, "
                "or a longer record."
            )
    for task, section in content["tasks"].items():
        if section["status"] == "failed":
            steps.append(f"{TASK_WORDS[task]} failed; its notebook in this folder shows where.")
    if content.get("source") == "synthetic":
        steps.append("Point the same command at your own tables: <code>aiops report --source FOLDER</code>.")
    steps.append("Every trial behind these numbers: <code>mlflow ui --backend-store-uri sqlite:///mlflow.db</code>.")
    return steps


def with_interval(value: Mapping[str, float | None] | None) -> str:
    """Return a metric as ``value (low to high)``, or a dash for none."""
    if not value or value.get("value") is None:
        return "–"
    if value.get("low") is None:
        return short(value["value"])
    return f"{short(value['value'])} ({short(value['low'])} to {short(value['high'])})"


def short(value: Any) -> str:
    """Return a value as briefly as a table shows it: three decimals, thousands with commas, a dash for none."""
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if 0 < abs(value) < 0.001:
        return f"{value:.1g}"
    # Counts that became floats on their way through a table.
    if abs(value) >= 2 and value == int(value):
        return f"{value:,.0f}"
    return f"{value:,.3f}" if abs(value) < 100 else f"{value:,.1f}"
