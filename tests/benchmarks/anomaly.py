"""The statistical anomaly detector on the Numenta Anomaly Benchmark, to reports/anomaly.md.

Run as ``make benchmark-anomaly`` (two minutes); the folder of data sets (``AIOPS_DATASETS_DIR``) must hold ``nab/data``
and ``nab/labels``. Everything was chosen on the CloudWatch series; those of known causes are measured once, at the end.
Every row of a labelled window counts as anomalous, for itself: nothing is adjusted to whole windows.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.ensemble import IsolationForest
from sklearn.metrics import average_precision_score

from aiops_core import settings
from aiops_core.errors import DataError
from aiops_core.rules import StatisticalAnomalyDetector
from aiops_core.rules.anomaly import past

ROOT = Path(__file__).resolve().parents[2]
PARTS = {"realAWSCloudwatch": "CloudWatch, chosen on", "realKnownCause": "Known causes, only reported"}
THRESHOLDS = 250
Series = tuple[np.ndarray, np.ndarray, np.ndarray]
Method = Callable[[np.ndarray, np.ndarray], np.ndarray]


# Measure


def vus_pr(truth: np.ndarray, score: np.ndarray, buffer: int) -> float:
    """Return the volume under the surface of precision, recall and buffer length.

    Paparrizos et al., "Volume Under the Surface", PVLDB 15(11), 2022, doi 10.14778/3551793.3551830, section 4, with the
    conventions of its authors' program: `THRESHOLDS` quantiles of the score; for a buffer of w rows a weight of
    sqrt(1 - d / w) at distance d <= w / 2 from a window; the weight that is found beside windows counts half as positive;
    recall is multiplied by the share of windows, merged where their buffers meet, with an alarm.

    Parameters
    ----------
    truth : ndarray, (n,), bool
        At least one row is true.
    score : ndarray, (n,)
        Higher is more anomalous.
    buffer : int
        Longest buffer, in rows; the mean is taken over 0 to ``buffer``.
    """
    edges = np.flatnonzero(np.diff(np.r_[0, truth.astype(int), 0]))
    windows = np.stack([edges[::2], edges[1::2] - 1], axis=1)
    order = np.argsort(-score, kind="stable")
    falling = -score[order]
    cuts = falling[np.linspace(0, len(score) - 1, THRESHOLDS).astype(int)]
    alarms = np.searchsorted(falling, cuts, side="right")
    inside = np.cumsum(truth[order])[alarms - 1]
    areas = []
    for width in range(buffer + 1):
        beside = np.cumsum(np.where(truth, 0.0, _weights(truth, windows, width))[order])[alarms - 1]
        peaks = np.array([score[a : b + 1].max() for a, b in _merged(windows, width // 2, len(score))])
        existence = (peaks[:, None] >= -cuts).mean(axis=0)
        recall = np.minimum((inside + beside) / (truth.sum() + beside / 2), 1.0) * existence
        areas.append(np.sum(np.diff(recall, prepend=0.0) * (inside + beside) / alarms))
    return float(np.mean(areas))


def _weights(truth: np.ndarray, windows: np.ndarray, width: int) -> np.ndarray:
    weights = truth.astype(float)
    distance = np.arange(1, width // 2 + 1)
    slope = np.sqrt(1 - distance / width) if width else np.zeros(0)
    for first, last in windows:
        for rows in (first - distance, last + distance):
            there = (rows >= 0) & (rows < len(truth))
            weights[rows[there]] += slope[there]
    return np.minimum(weights, 1.0)


def _merged(windows: np.ndarray, half: int, n: int) -> list[list[int]]:
    merged = [[max(int(windows[0, 0]) - half, 0), int(windows[0, 1]) + half]]
    for first, last in windows[1:]:
        if merged[-1][1] < first - half:
            merged.append([int(first) - half, int(last) + half])
        else:
            merged[-1][1] = int(last) + half
    merged[-1][1] = min(merged[-1][1], n - 1)
    return merged


def buffer_of(values: np.ndarray) -> int:
    """Return the buffer that TSB-AD takes: twice the lag of the highest peak of the autocorrelation, 3 to 303 rows."""
    gap = values - values.mean()
    power = np.abs(np.fft.rfft(gap, 2 * len(gap))) ** 2
    correlation = np.fft.irfft(power)[3 : min(401, len(gap))]
    peaks = np.flatnonzero((correlation[1:-1] > correlation[:-2]) & (correlation[1:-1] > correlation[2:])) + 1
    best = peaks[correlation[peaks].argmax()] if len(peaks) else 0
    return 2 * (int(best) + 3 if 3 <= best <= 300 else 125)


# Methods


def detector(times: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the served score."""
    return StatisticalAnomalyDetector().detect({"value": values}, timestamps=times)[0].score


def distance(times: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the distance from the median of the whole series."""
    return np.abs(values - np.median(values))


def smoothed(times: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the trailing mean of `distance` over 50 rows."""
    return pd.Series(distance(times, values)).rolling(50, min_periods=1).mean().to_numpy()


def rolling(times: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the z-score by the 288 values before."""
    before = pd.Series(values).shift().rolling(288, min_periods=8)
    deviation = before.std().clip(lower=1e-9 * max(1.0, np.abs(values).max()))
    return ((pd.Series(values) - before.mean()).abs() / deviation).fillna(0.0).to_numpy()


def forest(width: int) -> Method:
    """Return an IsolationForest on windows that end at the row, fitted on the whole series."""

    def scored(times: np.ndarray, values: np.ndarray) -> np.ndarray:
        windows = np.lib.stride_tricks.sliding_window_view(np.r_[np.full(width - 1, values[0]), values], width)
        return np.asarray(-IsolationForest(random_state=0).fit(windows).score_samples(windows))

    return scored


METHODS: dict[str, Method] = {
    "**statistical_anomaly_detector**": detector,
    "distance from the median": distance,
    "distance from the median, mean of 50 rows": smoothed,
    "rolling z-score, 288 rows": rolling,
    "IsolationForest, windows of 8": forest(8),
    "IsolationForest, windows of 50": forest(50),
    "IsolationForest, windows of 100": forest(100),
}
#: Each part taken out, or set to half and twice.
ABLATION: dict[str, dict[str, object]] = {
    "without trailing means": {"WIDTHS": ()},
    "trailing means up to 64 rows": {"WIDTHS": (4, 16, 64)},
    "without steps in the means": {"CLIP": np.array([[4.0], [0.0]])},
    "spread by quartiles only": {"TAILS": past.TAILS[:1]},
    "without season": {"SEASON_GAIN": 1.0},
    "memory of 1,024 rows": {"MEMORY": 1024},
    "memory of 2,048 rows": {"MEMORY": 2048},
    "statistics every 128 rows": {"STEP": 128},
}


@contextmanager
def changed(**constants: object) -> Iterator[None]:
    """Run with other constants of the detector."""
    before = {name: getattr(past, name) for name in constants}
    try:
        for name, value in constants.items():
            setattr(past, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(past, name, value)


# Table


def load(folder: Path, part: str) -> dict[str, Series]:
    """Return times, values and truth of every series of a part that has a labelled window."""
    labels = folder / "labels" / "combined_windows.json"
    if not labels.is_file():
        raise DataError(f"{labels} is missing; set AIOPS_DATASETS_DIR to a folder that holds nab/data and nab/labels")
    windows = json.loads(labels.read_text(encoding="utf-8"))
    found = {}
    for path in sorted((folder / "data" / part).glob("*.csv")):
        frame = pd.read_csv(path, parse_dates=["timestamp"])
        truth = np.zeros(len(frame), dtype=bool)
        for first, last in windows[f"{part}/{path.name}"]:
            truth |= frame["timestamp"].between(pd.Timestamp(first), pd.Timestamp(last)).to_numpy()
        if truth.any():
            found[path.stem] = (frame["timestamp"].to_numpy(), frame["value"].to_numpy(float), truth)
    return found


def measure(method: Method, series: dict[str, Series]) -> np.ndarray:
    """Return average precision and VUS-PR of each series, (n, 2)."""
    found = []
    for times, values, truth in series.values():
        score = method(times, values)
        found.append((average_precision_score(truth, score), vus_pr(truth, score, buffer_of(values))))
    return np.array(found)


def interval(values: np.ndarray) -> str:
    """Return the mean and its 95 % interval over series drawn with replacement."""
    drawn = np.random.default_rng(0).integers(0, len(values), (10_000, len(values)))
    low, high = np.quantile(values[drawn].mean(axis=1), (0.025, 0.975))
    return f"{values.mean():.3f} ({low:.3f} to {high:.3f})"


def table(rows: dict[str, np.ndarray], ours: np.ndarray) -> list[str]:
    """Return lines of a table: means, and what the detector has more in each series."""
    lines = [
        "| method | average precision | VUS-PR | detector's lead, AP | detector's lead, VUS-PR |",
        "| --- " * 5 + "|",
    ]
    for name, found in rows.items():
        lead = ["–", "–"] if found is ours else [interval(ours[:, k] - found[:, k]) for k in (0, 1)]
        lines.append(f"| {' | '.join([name, interval(found[:, 0]), interval(found[:, 1]), *lead])} |")
    return lines


def page(folder: Path) -> str:
    """Measure everything and return the report."""
    lines = [
        "# Anomalies, measured",
        "",
        "`make benchmark-anomaly` on the Numenta Anomaly Benchmark: every row for itself, never point-adjusted; mean over",
        "series with a 95 % bootstrap interval over series, and the paired lead of the detector. The detector and the rolling",
        "z-score see the past only; the others see the whole series. A window labelled by NAB is a tenth of its series and",
        "lies around the anomaly, so that half of it comes before anything happens. The mean of 50 rows is no baseline of the",
        "field: it shows how much of a lead only comes from alarms that last.",
    ]
    ours = np.zeros(0)
    for part, title in PARTS.items():
        series = load(folder, part)
        rows = {name: measure(method, series) for name, method in METHODS.items()}
        if part == "realAWSCloudwatch":
            ours = rows["**statistical_anomaly_detector**"]
        lines += ["", f"## {title} ({len(series)} series)", "", *table(rows, next(iter(rows.values())))]
    lines += ["", "## What each part brings, on CloudWatch", ""]
    cloudwatch, rows = load(folder, "realAWSCloudwatch"), {"as served": ours}
    for name, constants in ABLATION.items():
        with changed(**constants):
            rows[name] = measure(detector, cloudwatch)
    lines += table(rows, ours)
    lines += [
        "",
        "Published for NAB as a whole (TSB-AD, other series and labels, whole series seen): POLY 0.484, IForest 0.223 VUS-PR.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, default=ROOT / "reports" / "anomaly.md")
    arguments = parser.parse_args()
    mirror = settings.load().datasets_dir
    if mirror is None:
        raise SystemExit("set AIOPS_DATASETS_DIR to a folder that holds nab/data and nab/labels")
    text = page(mirror / "nab")
    arguments.write.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
