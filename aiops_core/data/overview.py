"""What a data set holds and the settings that follow from it, in words: ``aiops data validate``."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from aiops_core.data.tables import (
    DEFAULT_CONFIG,
    TASK_TABLES,
    TASKS,
    Dataset,
    Grid,
    epoch_seconds,
    feature_columns,
    step_of,
    to_grid,
)
from aiops_core.servable.threat import NORMAL

DAY = 86_400
#: What others call ordinary activity.
_ORDINARY = {"benign", "legitimate", "legit", "clean", "background", "good", "ok", "none"}
_ORDINARY |= {"no attack", "normal traffic"}


def lines(dataset: Dataset) -> list[str]:
    """Return the lines that describe a validated data set; those that belong to the one before are indented.

    Tables with their step, span, resources, incidents and classes; then, by task, the settings that a report would
    use, and where the data speak for others.
    """
    out = [f"note: {note}" for note in dataset.notes.get("folder", [])]
    for name, frame in dataset.tables.items():
        out += [*_table(name, frame), *(f"  {note}" for note in dataset.notes.get(name, []))]
    out.append("Settings of a report (change them in dataset.toml, or with --set task.name=value):")
    for task in TASKS:
        absent = [table for table in TASK_TABLES[task] if table not in dataset.tables]
        out += [f"  {task}: no {' and no '.join(absent)} table"] if absent else _settings(dataset, task)
        out += [] if absent else [f"    derived: {name} = {text}" for name, text in _derived(dataset, task).items()]
    return out


def natural_season(step_seconds: int) -> int | None:
    """Return the steps of the season that rows of a step suggest: a day, a week of days, a year of weeks or months.

    >>> [natural_season(s) for s in (300, 3600, 86_400, 7 * 86_400, 30 * 86_400)]
    [288, 24, 7, 52, 12]
    """
    if step_seconds <= DAY // 2:
        return round(DAY / step_seconds)
    if abs(step_seconds - DAY) <= 3600:
        return 7
    if step_seconds == 7 * DAY:
        return 52
    return 12 if 28 * DAY <= step_seconds <= 31 * DAY else None


def _table(name: str, frame: pd.DataFrame) -> list[str]:
    if name == "incidents":
        return _incidents(frame)
    features = feature_columns(name, frame)
    named = f"  {'columns' if name == 'usage' else 'features'}: {', '.join(features[:12])}"
    named += f" and {len(features) - 12} more" if len(features) > 12 else ""
    first = f"{name}: {len(frame):,} rows"
    if name == "activity":
        classes = frame["threat_type"].value_counts()
        groups = f", {frame['group'].nunique():,} groups" if "group" in frame.columns else ""
        span = [f"  {_span(frame['timestamp'])}"] if "timestamp" in frame.columns else []
        counted = ", ".join(f"{label} {count:,}" for label, count in classes.items())
        return [f"{first} of {len(classes)} classes{groups}, valid", f"  classes: {counted}", *span, named,
                *_class_names([str(label) for label in classes.index])]  # fmt: skip
    resources = frame["resource_id"].nunique()
    step = f"  one row every {_lasts(step_of(frame))}, {_span(frame['timestamp'])}"
    return [f"{first} of {_number(resources, 'resource')}, valid", step, named, *_intervals(frame)]


def _incidents(frame: pd.DataFrame) -> list[str]:
    length = (frame["end"] - frame["start"]).dt.total_seconds().median()
    resources = _number(frame["resource_id"].nunique(), "resource")
    out = [
        f"incidents: {_number(len(frame), 'incident')} of {resources}, valid",
        f"  {_span(frame['start'])}, median duration {_lasts(length)}",
    ]
    if "kind" in frame.columns:
        kinds = frame["kind"].value_counts()
        out.append(f"  kinds: {', '.join(f'{kind} {count:,}' for kind, count in kinds.items())}")
    return out


def _class_names(classes: list[str]) -> list[str]:
    """Return what is odd about the names of classes."""
    out = []
    folded: dict[str, str] = {}
    for label in classes:
        other = folded.setdefault(label.strip().casefold(), label)
        if other != label:
            out.append(f"  classes '{other}' and '{label}' differ in capitals or spaces only: are they one?")
    if NORMAL not in classes:
        near = [label for key, label in folded.items() if key == NORMAL or key in _ORDINARY]
        meant = f"; did you mean '{NORMAL}' by '{near[0]}'? Rename it" if near else ""
        out.append(f"  no class is called '{NORMAL}': ordinary activity is not told from attacks{meant}")
    return out


def _intervals(frame: pd.DataFrame) -> list[str]:
    """Return what is odd about the times between rows: resources of different steps, or times that wander."""
    codes = pd.factorize(frame["resource_id"])[0]
    same = codes[1:] == codes[:-1]
    seconds = np.diff(epoch_seconds(frame["timestamp"]))[same]
    if len(seconds) == 0:
        return []
    grid = step_of(frame)
    counts = pd.DataFrame({"resource": codes[1:][same], "seconds": seconds}).value_counts().reset_index()
    own = counts.drop_duplicates("resource")["seconds"].value_counts()
    out = []
    if float((seconds == grid).mean()) < 0.5:
        low, high = np.quantile(seconds, [0.05, 0.95])
        out.append(
            f"  rows lie {low:,.0f} to {high:,.0f} s apart, seldom {grid:,} s as on the grid: "
            "round the timestamps to a regular step"
        )
    if len(own) > 1 and own.index.max() >= 1.5 * own.index.min():
        pairs = zip(own.index.to_numpy()[:4], own.to_numpy()[:4], strict=True)
        shown = ", ".join(f"{_lasts(int(step))} ({_number(int(count), 'resource')})" for step, count in pairs)
        out.append(f"  steps differ: {shown}; all go on a grid of {_lasts(grid)}: bring them to one step")
    return out


def _settings(dataset: Dataset, task: str) -> list[str]:
    own = dataset.config.get(task, {})
    config: dict[str, Any] = {**DEFAULT_CONFIG[task], **own}
    frame = dataset.tables[TASK_TABLES[task][0]]
    split = "split by its column" if "split" in frame.columns else f"test_fraction {config.get('test_fraction')}"
    if task == "threat":
        return [f"  threat: {split}{', costs given' if 'costs' in config else ''}"]
    step = step_of(frame)

    def steps(key: str) -> str:
        return f"{key} {config[key]} ({_lasts(config[key] * step)})"

    if task == "failure":
        decision = ", decision given" if "decision" in config else ""
        return [f"  failure: {steps('window')}, {steps('horizon')}, stride {config['stride']}, {split}{decision}"]
    targets = config.get("target") or feature_columns("usage", frame)
    targets = [targets] if isinstance(targets, str) else list(targets)
    return [
        f"  capacity: {steps('season')}, {steps('horizon')}, {config['origins']} test origins "
        f"{config['origin_step']} steps apart, target {', '.join(targets)}",
        *([] if "season" in own else _season(frame, targets, step, config["season"])),
    ]


def _derived(dataset: Dataset, task: str) -> dict[str, str]:
    return dict(dataset.config.get(task, {}).get("derive") or {})


def _season(frame: pd.DataFrame, targets: list[str], step: int, used: int) -> list[str]:
    """Return the advice to set a season, where step and data speak for another one than the default."""
    natural = natural_season(step)
    if natural is None or natural == used:
        return []
    numeric = [name for name in targets if name in frame.columns]
    grid = to_grid(frame, numeric)
    here, there = _change(grid, natural), _change(grid, used)
    # NaN: no resource is as long as the season.
    if np.isnan(here) or here > there:
        return []
    shown = f" (a value {natural} steps earlier differs by {here:.2f} of the mean deviation, one {used} steps earlier"
    shown += f" by {there:.2f})" if not np.isnan(there) else " is not known)"
    return [
        f"    with a row every {_lasts(step)}, set [capacity] season = {natural} in dataset.toml, or "
        f"--set capacity.season={natural}{shown}"
    ]


def _change(grid: Grid, lag: int) -> float:
    """Return how far values lie from those ``lag`` steps earlier, in mean deviations from the column's median."""
    same = grid.resource[lag:] == grid.resource[:-lag]
    if not same.any():
        return float("nan")
    values = pd.DataFrame(grid.values)
    gap = pd.DataFrame(np.abs(grid.values[lag:] - grid.values[:-lag])[same])
    deviation = (values - values.median()).abs().mean()
    return float((gap.mean() / deviation.where(deviation > 0)).mean())


def _span(stamps: pd.Series) -> str:
    first, last = stamps.min(), stamps.max()
    return f"{first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC ({_lasts((last - first).total_seconds())})"


def _number(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def _lasts(seconds: float) -> str:
    """Return a duration in the unit that suits it.

    >>> [_lasts(s) for s in (90, 300, 3600, 86_400, 30 * 86_400)]
    ['1.5 min', '5 min', '1 h', '1 day', '30 days']
    """
    if seconds == DAY:
        return "1 day"
    for length, unit in ((DAY, "days"), (3600, "h"), (60, "min")):
        if seconds >= (2 * length if unit == "days" else length):
            return f"{round(seconds / length, 1):g} {unit}"
    return f"{seconds:g} s"
