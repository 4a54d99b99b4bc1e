"""Synthetic tables: their contract, their reproducibility, and the correctness and quality of their oracles."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pandas as pd
import pytest

from aiops_core.data import synthetic
from aiops_core.data.synthetic import capacity, failure_chain, threat
from aiops_core.data.tables import Dataset
from aiops_core.data.validation import validate_all
from aiops_core.errors import UsageError
from aiops_core.units import UNITS

HOUR = pd.Timedelta(hours=1)


def auc(truth: np.ndarray, score: np.ndarray) -> float:
    """Area under the ROC curve by ranks, ties shared."""
    ranks = pd.Series(score).rank().to_numpy()
    positive = truth.astype(bool)
    n, m = positive.sum(), (~positive).sum()
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * m))


def macro_f1(truth: np.ndarray, label: np.ndarray) -> float:
    scores = []
    for c in np.unique(truth):
        hit = ((truth == c) & (label == c)).sum()
        scores.append(2 * hit / ((truth == c).sum() + (label == c).sum()))
    return float(np.mean(scores))


def r2(truth: np.ndarray, guess: np.ndarray) -> float:
    return float(1 - ((truth - guess) ** 2).sum() / ((truth - truth.mean()) ** 2).sum())


def failure_examples(story: synthetic.Telemetry) -> pd.DataFrame:
    """Label every oracle row that lies a full horizon before the end of its record."""
    horizon = synthetic.CONFIG["failure"]["horizon"]
    last = story.telemetry.groupby("resource_id")["timestamp"].max().dt.floor("h")
    rows = story.oracle[story.oracle["timestamp"] + horizon * HOUR <= story.oracle["resource_id"].map(last)]
    starts = story.incidents[["resource_id", "start"]].sort_values("start")
    merged = pd.merge_asof(
        rows.sort_values("timestamp"),
        starts,
        left_on="timestamp",
        right_on="start",
        by="resource_id",
        direction="forward",
        allow_exact_matches=False,
        tolerance=horizon * HOUR,
    )
    return merged.assign(label=merged["start"].notna())


def capacity_examples(frame: pd.DataFrame, oracle: synthetic.UsageOracle, target: str) -> pd.DataFrame:
    config = synthetic.CONFIG["capacity"]
    first = frame["timestamp"].min()
    values = frame.set_index(["resource_id", "timestamp"])[target]
    parts = []
    for step in config["score_steps"]:
        for k in range(config["origins"]):
            origin = first + (capacity.USAGE_HOURS - 1 - config["horizon"] - k * config["origin_step"]) * HOUR
            keys = pd.DataFrame({"resource_id": oracle.resources})
            parts.append(keys.assign(origin=origin, target=target, step=step))
    keys = pd.concat(parts, ignore_index=True)
    due = pd.MultiIndex.from_arrays([keys["resource_id"], keys["origin"] + keys["step"] * HOUR])
    at = pd.MultiIndex.from_arrays([keys["resource_id"], keys["origin"]])
    keys["truth"], keys["last"] = values.reindex(due).to_numpy(), values.reindex(at).to_numpy()
    keys["oracle"] = oracle(keys)
    return keys.dropna()


@pytest.fixture(scope="module")
def data() -> Dataset:
    return synthetic.dataset(4000, seed=3)


@pytest.fixture(scope="module")
def story() -> synthetic.Telemetry:
    return synthetic.telemetry(8000, seed=1)


# Contract


def test_tables_pass_their_own_validation_unchanged(data: Dataset) -> None:
    checked, _ = validate_all(data.tables)
    assert set(checked) == {"telemetry", "incidents", "activity", "usage"}
    for name, frame in checked.items():
        assert len(frame) == len(data.tables[name])
    assert list(checked["telemetry"]["resource_id"]) == list(data.tables["telemetry"]["resource_id"])


def test_timestamps_are_utc_and_ids_are_strings(data: Dataset) -> None:
    stamps = (("telemetry", "timestamp"), ("incidents", "start"), ("incidents", "end"), ("usage", "timestamp"))
    for name, column in stamps:
        assert str(data.tables[name][column].dtype) == "datetime64[us, UTC]"
        assert data.tables[name]["resource_id"].dtype == "str"
    assert str(data.oracles["failure"]["timestamp"].dtype) == "datetime64[us, UTC]"


def test_every_feature_has_a_unit_and_stays_within_its_hard_bounds(data: Dataset) -> None:
    columns = {
        "telemetry": synthetic.TELEMETRY_METRICS,
        "activity": synthetic.ACTIVITY_FEATURES,
        "usage": (*synthetic.USAGE_TARGETS, *synthetic.USAGE_EXOGENOUS),
    }
    for table, names in columns.items():
        assert set(names) <= set(data.tables[table].columns)
        for name in names:
            feature, values = UNITS[name], data.tables[table][name].dropna()
            assert feature.unit
            assert values.between(feature.low, feature.high).all(), name
            assert np.isfinite(values).all()


@pytest.mark.parametrize("n", [1000, 4000])
def test_n_samples_counts_the_examples_of_each_task(n: int) -> None:
    data = synthetic.dataset(n, seed=2)
    config = data.config["failure"]
    telemetry = data.tables["telemetry"]
    windows = 0
    inside = set(map(tuple, data.oracles["failure"][["resource_id", "timestamp"]].to_numpy()))
    for resource, times in telemetry.groupby("resource_id")["timestamp"]:
        ends = pd.date_range(
            times.min() + (config["window"] - 1) * HOUR,
            times.max().floor("h") - config["horizon"] * HOUR,
            freq=config["stride"] * HOUR,
        )
        windows += sum((resource, end) in inside for end in ends)
    assert windows == pytest.approx(n, rel=0.03)
    assert len(data.tables["activity"]) == n
    settings = data.config["capacity"]
    origins = (capacity.USAGE_HOURS - capacity.USAGE_WARM_UP - settings["horizon"]) // settings["origin_step"] + 1
    pairs = data.tables["usage"]["resource_id"].nunique() * origins
    assert n <= pairs < n + origins


def test_values_rows_and_stamps_are_missing_or_late_as_told(data: Dataset) -> None:
    telemetry = data.tables["telemetry"]
    assert 0.01 < telemetry[list(synthetic.TELEMETRY_METRICS)].isna().to_numpy().mean() < 0.03
    resources = telemetry["resource_id"].nunique()
    assert 0.002 < 1 - len(telemetry) / (resources * failure_chain.TELEMETRY_HOURS) < 0.03
    late = telemetry["timestamp"] != telemetry["timestamp"].dt.floor("h")
    assert 0.002 < late.mean() < 0.01
    first = telemetry.drop_duplicates("resource_id")["timestamp"]
    assert (first == first.dt.floor("h")).all()
    seen = data.tables["activity"][list(synthetic.ACTIVITY_FEATURES)].notna()
    assert seen.any(axis=1).all()
    assert 0.05 < 1 - seen.to_numpy().mean() < 0.15


def test_classes_are_imbalanced_as_told(data: Dataset) -> None:
    share = data.tables["activity"]["threat_type"].value_counts(normalize=True)
    assert set(share.index) == set(synthetic.CLASSES)
    assert sum(synthetic.CLASSES.values()) == pytest.approx(1)
    for name, expected in synthetic.CLASSES.items():
        assert share[name] == pytest.approx(expected, abs=0.02)


# Reproducibility


def test_equal_seeds_give_equal_data_whatever_tasks_are_chosen(data: Dataset) -> None:
    for task, tables in (("failure", ["telemetry", "incidents"]), ("threat", ["activity"]), ("capacity", ["usage"])):
        again = synthetic.dataset(4000, seed=3, tasks=(task,))
        assert sorted(again.tables) == sorted(tables)
        for name in tables:
            pd.testing.assert_frame_equal(again.tables[name], data.tables[name])


def test_different_seeds_give_different_data(data: Dataset) -> None:
    other = synthetic.dataset(4000, seed=4)
    for task in ("failure", "threat", "capacity"):
        assert other.digest(task) != data.digest(task)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_samples": 0}, "n_samples must be at least 1, not 0"),
        ({"seed": -1}, "seed must not be negative"),
        ({"signal": 1.5}, "signal must lie between 0 and 1"),
        ({"tasks": ("failures",)}, "unknown task 'failures'"),
    ],
)
def test_arguments_out_of_range_are_refused_in_one_sentence(arguments: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        synthetic.dataset(**{"n_samples": 10, "seed": 0} | arguments)


# Failure


def test_failure_oracle_ranks_well_and_is_calibrated(story: synthetic.Telemetry) -> None:
    rows = failure_examples(story)
    truth, p = rows["label"].to_numpy(), rows["probability"].to_numpy()
    assert 0.07 < truth.mean() < 0.12
    assert 0.94 < auc(truth, p) < 0.975
    for part in np.array_split(np.argsort(p, kind="stable")[int(0.8 * len(p)) :], 5):
        assert truth[part].mean() == pytest.approx(p[part].mean(), abs=0.05)


def test_failure_oracle_equals_a_simulation_of_its_chain() -> None:
    chain = failure_chain.degradation_chain(1.0)
    rng = np.random.default_rng(0)
    horizon = 24
    for start in (0, int(chain.onset[4]) + 25):  # healthy; well into a disk saturation
        now = np.full(40_000, start)
        hit = np.zeros(len(now), dtype=bool)
        for _ in range(horizon):
            draw, turn = rng.random((2, len(now)))
            hit |= draw < chain.hazard[now]
            healthy = now == 0
            onset = chain.onset[rng.choice(len(chain.onset), len(now), p=chain.onset_weight)]
            recovered = ~healthy & (turn < chain.recovery[now])
            now = np.where(healthy, np.where(turn < failure_chain.ONSET, onset, 0), chain.following[now])
            now[recovered] = 0
        assert chain.probability(horizon)[start] == pytest.approx(hit.mean(), abs=4 * hit.std() / 200)


def test_incidents_do_not_overlap_and_oracle_leaves_them_out(story: synthetic.Telemetry) -> None:
    incidents = story.incidents.sort_values(["resource_id", "start"])
    same = incidents["resource_id"].eq(incidents["resource_id"].shift())
    assert (incidents["end"] > incidents["start"]).all()
    assert (incidents["start"] >= incidents["end"].shift())[same].all()
    merged = pd.merge_asof(
        story.oracle.sort_values("timestamp"),
        incidents.sort_values("start"),
        left_on="timestamp",
        right_on="start",
        by="resource_id",
    )
    assert not (merged["timestamp"] < merged["end"]).any()


def test_all_degradations_and_incidents_without_warning_occur(story: synthetic.Telemetry) -> None:
    counts = story.incidents["kind"].value_counts()
    assert set(counts.index) == {"sudden", *failure_chain.KINDS}
    assert counts.min() >= 5


def test_a_high_cpu_alone_tells_little(story: synthetic.Telemetry) -> None:
    rows = failure_examples(story).merge(story.telemetry, on=["resource_id", "timestamp"]).dropna(subset=["cpu_usage"])
    assert auc(rows["label"].to_numpy(), rows["cpu_usage"].to_numpy()) < 0.65


def test_the_trend_of_memory_tells_a_leak_better_than_its_level(story: synthetic.Telemetry) -> None:
    telemetry = story.telemetry
    telemetry = telemetry.assign(rise=telemetry.groupby("resource_id")["memory_usage"].diff(18))
    before = story.incidents.loc[story.incidents["kind"] == "memory_leak", ["resource_id", "start"]]
    leak = before.assign(timestamp=before["start"] - 3 * HOUR).merge(telemetry, on=["resource_id", "timestamp"])
    usual = telemetry.sample(4000, random_state=0)
    both = pd.concat([leak.assign(leak=True), usual.assign(leak=False)]).dropna(subset=["rise", "memory_usage"])
    truth = both["leak"].to_numpy(dtype=bool)
    assert auc(truth, both["rise"].to_numpy()) > 0.9
    assert auc(truth, both["rise"].to_numpy()) > auc(truth, both["memory_usage"].to_numpy()) + 0.01


# Threat


def brute_force_posterior(row: dict[str, float]) -> np.ndarray:
    """Posterior from full, normalised densities, one class and level at a time."""
    eta = threat.locations(1.0)
    out = np.zeros(len(synthetic.CLASSES))
    for c, prior in enumerate(synthetic.CLASSES.values()):
        for k, weight in enumerate(threat.INTENSITY_WEIGHTS):
            density = prior * weight
            for j, (name, law) in enumerate(threat.LAWS.items()):
                if name not in row:
                    continue
                x, location, d = row[name], eta[c, k, j], law.dispersion
                if law.family == "lognormal":
                    density *= math.exp(-((math.log(x) - location) ** 2) / (2 * d * d))
                    density /= x * d * math.sqrt(2 * math.pi)
                elif law.family == "gamma":
                    scale = math.exp(location) / d
                    density *= math.exp((d - 1) * math.log(x) - x / scale - math.lgamma(d) - d * math.log(scale))
                elif law.family == "negative_binomial":
                    count, mean = x - (name == "unique_ips"), math.exp(location)
                    density *= math.exp(
                        math.lgamma(count + d)
                        - math.lgamma(d)
                        - math.lgamma(count + 1)
                        + d * math.log(d / (d + mean))
                        + count * math.log(mean / (d + mean))
                    )
                else:
                    mean = 1 / (1 + math.exp(-location))
                    a, b = mean * d, (1 - mean) * d
                    density *= math.exp(
                        math.lgamma(d)
                        - math.lgamma(a)
                        - math.lgamma(b)
                        + (a - 1) * math.log(x)
                        + (b - 1) * math.log1p(-x)
                    )
            out[c] += density
    return np.asarray(out / out.sum())


def test_posterior_equals_brute_force_under_any_missing_pattern() -> None:
    frame, posterior = synthetic.activity(60, seed=5)
    features = frame[list(synthetic.ACTIVITY_FEATURES)]
    assert features.isna().any(axis=1).sum() > 10
    for i in range(len(frame)):
        row = {str(k): float(v) for k, v in features.iloc[i].dropna().items()}
        np.testing.assert_allclose(posterior.iloc[i], brute_force_posterior(row), atol=1e-9)


def test_posterior_sums_to_one_and_is_aligned(data: Dataset) -> None:
    posterior = data.oracles["threat"]
    assert list(posterior.columns) == list(synthetic.CLASSES)
    assert len(posterior) == len(data.tables["activity"])
    np.testing.assert_allclose(posterior.sum(axis=1), 1, atol=1e-12)


@pytest.mark.parametrize("seed", [0, 1])
def test_threat_oracle_is_neither_trivial_nor_hopeless(seed: int) -> None:
    frame, posterior = synthetic.activity(20_000, seed=seed)
    label = posterior.columns.to_numpy()[posterior.to_numpy().argmax(axis=1)].astype(str)
    assert 0.90 < macro_f1(frame["threat_type"].to_numpy().astype(str), label) < 0.94


def test_posterior_is_calibrated() -> None:
    frame, posterior = synthetic.activity(20_000, seed=2)
    p = posterior.to_numpy().ravel()
    truth = (frame["threat_type"].to_numpy()[:, None] == posterior.columns.to_numpy()).ravel()
    for low in (0.1, 0.3, 0.5, 0.7, 0.9):
        near = np.abs(p - low) < 0.1
        assert truth[near].mean() == pytest.approx(p[near].mean(), abs=0.04)


def test_many_failed_logins_from_many_addresses_are_an_attack() -> None:
    row = pd.DataFrame([{"failed_auth_count": 25, "request_rate": 1500, "unique_ips": 50}])
    posterior = synthetic.activity_posterior(row)
    assert posterior["normal"].to_numpy()[0] < 0.01
    assert list(posterior.columns)[int(posterior.to_numpy().argmax())] == "brute_force"


def test_features_are_correlated_and_heavy_tailed_within_a_class(data: Dataset) -> None:
    normal = data.tables["activity"].query("threat_type == 'normal'")
    ranks = normal[["request_rate", "data_transfer_rate"]].dropna().rank().to_numpy()
    assert np.corrcoef(ranks.T)[0, 1] > 0.1
    rate = normal["request_rate"].dropna().to_numpy()
    assert np.quantile(rate, 0.999) > 8 * np.median(rate)


# Capacity


def test_usage_oracle_explains_about_nine_tenths() -> None:
    frame, oracle = synthetic.usage(8000, seed=0)
    scores = []
    for target in synthetic.USAGE_TARGETS:
        rows = capacity_examples(frame, oracle, target)
        scores.append(r2(rows["truth"].to_numpy(), rows["oracle"].to_numpy()))
        assert scores[-1] > r2(rows["truth"].to_numpy(), rows["last"].to_numpy()) + 0.02
    assert 0.87 < np.mean(scores) < 0.93


def test_usage_oracle_equals_a_simulation_of_the_future() -> None:
    rng = np.random.default_rng(0)
    step, known, auto, n = 168, 88.0, 9.0, 200_000
    decay, sd, white, rate, shift = capacity.DYNAMICS["cpu_usage"]
    w = np.full(n, auto)
    for _ in range(step):
        w = decay * w + math.sqrt(1 - decay**2) * sd * rng.standard_normal(n)
    jumps = np.sqrt(rng.binomial(step, rate, n)) * shift * rng.standard_normal(n)
    simulated = np.clip(known + w + jumps + white * rng.standard_normal(n), 0, 100)
    latent = np.zeros((3, 1, step + 1), dtype=np.float32)
    oracle = synthetic.UsageOracle(["a"], latent + np.float32(known), latent, latent + np.float32(auto), 1.0)
    origin = pd.Timestamp(capacity.USAGE_START, tz="UTC")
    keys = pd.DataFrame({"resource_id": ["a"], "origin": [origin], "target": ["cpu_usage"], "step": [step]})
    assert oracle(keys)[0] == pytest.approx(simulated.mean(), abs=5 * simulated.std() / math.sqrt(n))


def test_usage_oracle_survives_pickling_and_refuses_unknown_keys() -> None:
    frame, oracle = synthetic.usage(100, seed=0)
    keys = capacity_examples(frame, oracle, "memory_usage")
    again = pickle.loads(pickle.dumps(oracle))
    np.testing.assert_array_equal(again(keys), keys["oracle"])
    with pytest.raises(UsageError, match="neither this resource nor this target"):
        oracle(keys.assign(resource_id="nowhere"))
    with pytest.raises(UsageError, match="outside the record"):
        oracle(keys.assign(step=10_000))


def test_demand_follows_the_hour_and_rests_on_holidays() -> None:
    demand = capacity.relative_demand(np.random.default_rng(0), (300, capacity.USAGE_HOURS))
    by_hour = demand[:, : 7 * 24].reshape(300, 7, 24)[:, :5].mean(axis=1)
    assert (by_hour.max(axis=1) / by_hour.min(axis=1)).mean() > 1.5
    start = capacity.USAGE_START.astype("datetime64[D]")
    day = int((np.datetime64(capacity.HOLIDAYS[1]) - start).astype(int))
    daily = demand.reshape(300, -1, 24).mean(axis=2)
    # A Thursday; the Sunday of that week has the same demand but for the trend.
    np.testing.assert_allclose(daily[:, day], daily[:, day + 3], rtol=0.02)


# Signal 0


def test_without_signal_the_failure_oracle_is_constant_and_metrics_are_no_help() -> None:
    story = synthetic.telemetry(4000, seed=0, signal=0.0)
    assert story.oracle["probability"].nunique() == 1
    rows = failure_examples(story)
    assert rows["label"].mean() == pytest.approx(rows["probability"].iloc[0], abs=0.015)
    rows = rows.merge(story.telemetry, on=["resource_id", "timestamp"])
    for metric in synthetic.TELEMETRY_METRICS:
        seen = rows.dropna(subset=[metric])
        assert auc(seen["label"].to_numpy(), seen[metric].to_numpy()) == pytest.approx(0.5, abs=0.06)


def test_without_signal_the_posterior_is_the_prior() -> None:
    frame, posterior = synthetic.activity(3000, seed=0, signal=0.0)
    np.testing.assert_allclose(posterior, np.tile(list(synthetic.CLASSES.values()), (3000, 1)), atol=1e-9)
    for feature in synthetic.ACTIVITY_FEATURES:
        seen = frame[feature].notna()
        attack = (frame.loc[seen, "threat_type"] != "normal").to_numpy()
        assert auc(attack, frame.loc[seen, feature].to_numpy()) == pytest.approx(0.5, abs=0.05)


def test_without_signal_nothing_beats_the_last_value() -> None:
    frame, oracle = synthetic.usage(4000, seed=0, signal=0.0)
    for target in synthetic.USAGE_TARGETS:
        rows = capacity_examples(frame, oracle, target)
        truth = rows["truth"].to_numpy()
        assert r2(truth, rows["oracle"].to_numpy()) < r2(truth, rows["last"].to_numpy()) + 0.02


def test_half_the_signal_lies_between() -> None:
    frame, posterior = synthetic.activity(5000, seed=0, signal=0.5)
    label = posterior.columns.to_numpy()[posterior.to_numpy().argmax(axis=1)].astype(str)
    assert 0.2 < macro_f1(frame["threat_type"].to_numpy().astype(str), label) < 0.85
    rows = failure_examples(synthetic.telemetry(4000, seed=0, signal=0.5))
    assert 0.6 < auc(rows["label"].to_numpy(), rows["probability"].to_numpy()) < 0.93
