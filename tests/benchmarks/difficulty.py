"""How hard the synthetic data are: the best of many generated features, simple and strong methods, and the oracles.

Writes ``reports/difficulty.md`` and ``.json``. Everything but the best feature, which is picked on the test rows in its
favour, learns from the rows before the test part. What was measured before with as many samples stays in the table, so
that tasks and seeds may be added one by one. ``make difficulty`` runs it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier
from threadpoolctl import threadpool_limits

from aiops_core.data import synthetic
from aiops_core.data.splits import TEST
from aiops_core.data.tables import Dataset
from aiops_core.tasks import capacity, failure, threat
from aiops_core.tasks.capacity.pairs import history_of, keys_of

ROOT = Path(__file__).resolve().parents[2]
SPANS = (3, 6, 12, 24, 48, 72)
PAST = 168
Row = dict[str, Any]


def row(task: str, method: str, metric: str, value: float, note: str = "", **more: float) -> Row:
    """Return one line of the table."""
    return {"task": task, "method": method, "metric": metric, "value": float(value), "note": note, **more}


# Failure


def telemetry_features(data: failure.FailureData, ends: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield level, slope, spread, extremes and gap to the own past median, of raw and log columns, over `SPANS`."""
    index = ends[:, None] + np.arange(1 - PAST, 1)
    past = data.values[np.maximum(index, 0)]
    past[index < data.start[ends][:, None]] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # spans without a value
        for scale in ("raw", "log"):
            values = past if scale == "raw" else np.log(np.maximum(past, 1e-3))
            usual = np.nanmedian(values, axis=1)
            for span in SPANS:
                window = values[:, -span:]
                clock = np.arange(span) - (span - 1) / 2
                level = np.nanmean(window, axis=1)
                gaps = np.where(np.isnan(window), 0.0, window - level[:, None])
                kinds = {
                    "level": level,
                    "slope": np.einsum("nsk,s->nk", gaps, clock) / (clock**2).sum(),
                    "spread": np.nanstd(window, axis=1),
                    "least": np.nanmin(window, axis=1),
                    "greatest": np.nanmax(window, axis=1),
                    "gap to own median": level - usual,
                }
                for kind, columns in kinds.items():
                    for j, feature in enumerate(data.features):
                        yield f"{kind} of {scale} {feature['name']} over {span} h", columns[:, j]


def auc_of(truth: np.ndarray, feature: np.ndarray) -> float:
    """Return the ROC AUC of one feature in its better direction; missing values are its median."""
    ranks = rankdata(np.where(np.isnan(feature), np.nanmedian(feature), feature))
    positive = int(truth.sum())
    area = (ranks[truth == 1].sum() - positive * (positive + 1) / 2) / (positive * (len(truth) - positive))
    return float(max(area, 1 - area))


def linear() -> Any:
    """Return a regularised logistic regression on standardised features, missing values filled by the median."""
    return make_pipeline(SimpleImputer(strategy="median"), StandardScaler(), LogisticRegression(C=0.01, max_iter=400))


def of_failure(n_samples: int, seed: int, models: bool) -> list[Row]:
    """Measure the failure task."""
    story = synthetic.telemetry(n_samples, seed=seed)
    tables = {"telemetry": story.telemetry, "incidents": story.incidents}
    data = failure.prepare(_dataset("failure", tables, story.predict), seed=seed)
    train, test = np.sort(np.r_[data.ends["train"], data.ends["validation"]]), data.ends["test"]
    truth, known = data.label(test), data.label(train)
    names, learned, shown = [], [], []
    for (name, mine), (_, other) in zip(telemetry_features(data, train), telemetry_features(data, test), strict=True):
        names.append(name)
        learned.append(mine)
        shown.append(other)
    single = [auc_of(truth, feature) for feature in shown]
    best = int(np.argmax(single))
    X, Z = np.stack(learned, axis=1), np.stack(shown, axis=1)
    boosted = HistGradientBoostingClassifier(
        max_iter=150,
        learning_rate=0.05,
        max_leaf_nodes=15,
        l2_regularization=5.0,
        early_stopping=False,
        random_state=seed,
    )
    scores = {
        "logistic regression, all of them": linear().fit(X, known).predict_proba(Z)[:, 1],
        "boosted trees, all of them": boosted.fit(X, known).predict_proba(Z)[:, 1],
        "boosted trees on window statistics": failure.baselines(data, seed=seed)["hist_gradient_boosting"][
            "probability"
        ],
    }
    if models:
        trained = failure.fit(failure.defaults(data)[0], data, seed=seed)
        scores["LSTM, default parameters, one network"] = failure.predict(trained, data, "test")["probability"]
    found = failure.oracle(data)
    assert found is not None
    keys = data.keys("test")
    state = keys.merge(story.state_oracle, on=["resource_id", "timestamp"], how="left")["probability"].to_numpy()
    scores |= {"oracle: filter that sees the metrics": found["probability"], "knows the state": state}
    rows = [row("failure", f"best of {len(names)} features", "ROC AUC", single[best], names[best])]
    for name, score in scores.items():
        area, precision = roc_auc_score(truth, score), average_precision_score(truth, score)
        rows.append(row("failure", name, "ROC AUC", area, average_precision=float(precision)))
    return rows


# Threat


def activity_features(X: np.ndarray, names: list[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield every column (log1p) and eight combinations of every pair of columns, standardised."""
    logs = np.log1p(X)
    logs = (logs - np.nanmean(logs, axis=0)) / np.nanstd(logs, axis=0)
    yield from ((name, logs[:, j]) for j, name in enumerate(names))
    for i, j in itertools.combinations(range(len(names)), 2):
        a, b = logs[:, i], logs[:, j]
        combined = {
            "sum": a + b, "difference": a - b, "product": a * b, "larger": np.fmax(a, b), "smaller": np.fmin(a, b),
            "distance": np.abs(a - b), "size": np.hypot(a, b), "angle": np.arctan2(a, b),
        }  # fmt: skip
        for kind, values in combined.items():
            yield f"{kind} of {names[i]} and {names[j]}", values


def of_threat(n_samples: int, seed: int, models: bool) -> list[Row]:
    """Measure the threat task."""
    frame, posterior = synthetic.activity(n_samples, seed=seed)
    data = threat.prepare(_dataset("threat", {"activity": frame}, posterior), seed=seed)
    test = data.part == TEST
    names = [feature["name"] for feature in data.features]
    X = data.X.astype(np.float64)

    def score(label: np.ndarray) -> float:
        return float(f1_score(data.y[test], label, average="macro"))

    singles: list[tuple[float, str]] = []
    for name, values in activity_features(X, names):
        stump = DecisionTreeClassifier(
            max_leaf_nodes=24, min_samples_leaf=20, class_weight="balanced", random_state=seed
        )
        filled = np.nan_to_num(values, nan=-9.0)[:, None]
        singles.append((score(stump.fit(filled[~test], data.y[~test]).predict(filled[test])), name))
    best = max(singles)
    logs = np.log1p(X)
    plain = make_pipeline(SimpleImputer(strategy="median"), StandardScaler(), LogisticRegression(max_iter=400))
    labels = {
        "logistic regression on log1p": plain.fit(logs[~test], data.y[~test]).predict(logs[test]),
        "boosted trees": threat.baselines(data, seed=seed)["hist_gradient_boosting"]["label"],
    }
    if models:
        trained = threat.finish([dict(threat.defaults(data)[0])], data, seed=seed)
        labels["random forest, default parameters"] = threat.predict(trained, data, "test")["label"]
    found = threat.oracle(data)
    assert found is not None and data.oracle is not None
    labels["oracle: exact posterior, weights of highest F1 in validation"] = found["label"]
    labels["oracle, most probable class"] = data.oracle[test].argmax(axis=1)
    rows = [row("threat", f"best of {len(singles)} features, a tree on it", "macro-F1", best[0], best[1])]
    return rows + [row("threat", name, "macro-F1", score(label)) for name, label in labels.items()]


# Capacity


def simple_forecasts(data: capacity.CapacityData, pairs: Any) -> dict[str, np.ndarray]:
    """Return statistics of the history, each a forecast of its own, (n, steps)."""
    steps, season = pairs.steps, 24
    history = history_of(data, pairs.resource, pairs.target, pairs.origin, 14 * season)
    same = [_lagged(history, steps, season * k) for k in range(1, 8)]
    week = [_lagged(history, steps, 7 * season * k) for k in (1, 2)]
    out = {"same hour yesterday": same[0], "same hour last week": week[0]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for span in (1, 2, *SPANS, 120, 168, 336):
            for name, statistic in (("mean", np.nanmean), ("median", np.nanmedian)):
                value = statistic(history[:, -span:], axis=1)
                out[f"{name} of the last {span}"] = np.broadcast_to(value[:, None], steps.shape)
        for days in (2, 3, 5, 7):
            out[f"mean same hour of {days} days"] = np.nanmean(np.stack(same[:days]), axis=0)
            out[f"median same hour of {days} days"] = np.nanmedian(np.stack(same[:days]), axis=0)
        out["mean same hour of 2 weeks"] = np.nanmean(np.stack(week), axis=0)
    filled = np.broadcast_to(np.nanmean(history, axis=1)[:, None], steps.shape)
    return {name: np.where(np.isnan(value), filled, value) for name, value in out.items()}


def _lagged(history: np.ndarray, steps: np.ndarray, period: int) -> np.ndarray:
    """Value a whole number of periods before each step, the latest known."""
    position = history.shape[1] - 1 + steps - period * -(-steps // period)
    return np.take_along_axis(history, np.maximum(position, 0), axis=1)


def of_capacity(n_samples: int, seed: int, models: bool) -> list[Row]:
    """Measure the capacity task."""
    frame, ask = synthetic.usage(n_samples, seed=seed)
    data = capacity.prepare(_dataset("capacity", {"usage": frame}, ask), seed=seed)
    pairs, before = data.parts["test"], data.parts["validation"]
    scored = pairs.known
    basis = simple_forecasts(data, pairs)
    forecasts = {name: value[scored] for name, value in basis.items()}
    blends = {f"{a} and {b}": (forecasts[a] + forecasts[b]) / 2 for a, b in itertools.combinations(forecasts, 2)}
    naive = [forecasts[name] for name in ("same hour yesterday", "median of the last 3", "median of the last 24")]
    units = data.naive_error[pairs.flat(pairs.resource), pairs.flat(pairs.target)]
    truth = pairs.truth[scored]

    def score(forecast: np.ndarray) -> float:
        return float(np.mean(np.abs(truth - forecast) / units))

    singles = {name: score(value) for name, value in {**forecasts, **blends}.items()}
    best = min(singles, key=lambda name: singles[name])
    found = capacity.baselines(data, seed=seed)
    methods: dict[str, np.ndarray] = {
        "untrained median of three": np.median(np.stack(naive), axis=0),
        "linear regression, all of them": _linear_forecast(data, before, pairs, basis),
        "boosted trees on scaled lags": found["scaled_booster"]["p50"],
    }
    if models:
        trained = capacity.finish([dict(capacity.defaults(data)[0])], data, seed=seed)
        methods["XGBoost, default parameters"] = capacity.predict(trained, data, "test")["p50"]
    keys = keys_of(data, pairs)
    methods |= {"oracle: filter that sees the history": ask(keys), "knows the state": ask.knowing(keys)}
    rows = [row("capacity", f"best of {len(singles)} simple forecasts", "MASE", singles[best], best)]
    return rows + [row("capacity", name, "MASE", score(value)) for name, value in methods.items()]


def _linear_forecast(data: capacity.CapacityData, before: Any, pairs: Any, basis: dict[str, np.ndarray]) -> np.ndarray:
    """Weigh the simple forecasts by ridge regression, one a step, learned from the validation origins."""
    learned = simple_forecasts(data, before)
    out = np.empty(pairs.steps.shape)
    for k in range(pairs.steps.shape[1]):
        X, y = np.stack([value[:, k] for value in learned.values()], axis=1), before.truth[:, k]
        usable = ~np.isnan(y)
        model = make_pipeline(StandardScaler(), Ridge(10.0)).fit(X[usable], y[usable])
        out[:, k] = model.predict(np.stack([value[:, k] for value in basis.values()], axis=1))
    return np.asarray(out[pairs.known])


def _dataset(task: str, tables: dict[str, pd.DataFrame], oracle: Any) -> Dataset:
    return Dataset("synthetic", "synthetic", "none", tables, {task: dict(synthetic.CONFIG[task])}, {task: oracle})


MEASURES: dict[str, Callable[[int, int, bool], list[Row]]] = {
    "failure": of_failure,
    "threat": of_threat,
    "capacity": of_capacity,
}


def write(rows: list[Row], folder: Path, n_samples: int) -> None:
    """Write the table and its numbers; several seeds side by side."""
    rows = sorted(rows, key=lambda r: list(MEASURES).index(r["task"]))
    seeds = list(dict.fromkeys(r["seed"] for r in rows))
    keys = list(dict.fromkeys((r["task"], r["method"], r["metric"]) for r in rows))
    lines = [
        "# How hard the synthetic data are",
        "",
        f"{n_samples:,} samples a task, the split of the ordinary report; `make difficulty` renews it. The best feature is"
        " picked on the test rows, in its favour; everything else learns from the rows before them. The oracles know the"
        " story and its parameters; only the lines that say so know the hidden state.",
        "",
        "| task | method | metric | " + " | ".join(f"seed {seed}" for seed in seeds) + " |",
        "| --- | --- | --- |" + " ---: |" * len(seeds),
    ]
    for task, method, metric in keys:
        cells = []
        for seed in seeds:
            mine = [r for r in rows if (r["task"], r["method"], r["metric"], r["seed"]) == (task, method, metric, seed)]
            more = f" (AP {mine[0]['average_precision']:.3f})" if mine and "average_precision" in mine[0] else ""
            cells.append(f"{mine[0]['value']:.3f}{more}" if mine else "")
        lines.append(f"| {task} | {method} | {metric} | " + " | ".join(cells) + " |")
    best = [f"- {r['task']}, seed {r['seed']}: {r['note']}." for r in rows if r["note"]]
    text = "\n".join([*lines, "", "The best single ones:", "", *best]) + "\n"
    (folder / "difficulty.md").write_text(text, encoding="utf-8")
    (folder / "difficulty.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Measure the tasks and seeds asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", choices=list(MEASURES), default=list(MEASURES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[7])
    parser.add_argument("--samples", type=int, default=8000)
    parser.add_argument("--no-models", action="store_true", help="leave out the tasks' own models")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "reports", help="folder of difficulty.md and difficulty.json"
    )
    arguments = parser.parse_args()
    store = arguments.out / "difficulty.json"
    rows: list[Row] = json.loads(store.read_text(encoding="utf-8")) if store.is_file() else []
    rows = [r for r in rows if r["samples"] == arguments.samples]
    for seed, task in itertools.product(arguments.seeds, arguments.tasks):
        begun = time.perf_counter()
        with threadpool_limits(1):
            fresh = MEASURES[task](arguments.samples, seed, not arguments.no_models)
        rows = [r for r in rows if (r["task"], r["seed"]) != (task, seed)]
        rows += [{**r, "seed": seed, "samples": arguments.samples} for r in fresh]
        print(f"{task}, seed {seed}: {time.perf_counter() - begun:.0f} s", flush=True)
        write(rows, arguments.out, arguments.samples)


if __name__ == "__main__":
    main()
