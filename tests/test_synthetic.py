"""Synthetic tables: their contract, their reproducibility, and the correctness and quality of their oracles."""

from __future__ import annotations

import dataclasses
import math
import pickle

import numpy as np
import pandas as pd
import pytest

from aiops_core.data import synthetic
from aiops_core.data.synthetic import capacity, capacity_parts, failure_chain, threat_tactics
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
            origin = first + (capacity_parts.USAGE_HOURS - 1 - config["horizon"] - k * config["origin_step"]) * HOUR
            keys = pd.DataFrame({"resource_id": oracle.resources})
            parts.append(keys.assign(origin=origin, target=target, step=step))
    keys = pd.concat(parts, ignore_index=True)
    due = pd.MultiIndex.from_arrays([keys["resource_id"], keys["origin"] + keys["step"] * HOUR])
    at = pd.MultiIndex.from_arrays([keys["resource_id"], keys["origin"]])
    keys["truth"], keys["last"] = values.reindex(due).to_numpy(), values.reindex(at).to_numpy()
    keys["oracle"], keys["knowing"] = oracle(keys), oracle.knowing(keys)
    return keys.dropna()


@pytest.fixture(scope="module")
def data() -> Dataset:
    return synthetic.dataset(4000, seed=3)


@pytest.fixture(scope="module")
def story() -> synthetic.Telemetry:
    return synthetic.telemetry(4000, seed=1)


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
    inside = set(map(tuple, synthetic.telemetry(n, seed=2).state_oracle[["resource_id", "timestamp"]].to_numpy()))
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
    origins = (capacity_parts.USAGE_HOURS - capacity.USAGE_WARM_UP - settings["horizon"]) // settings["origin_step"] + 1
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
        ({"drift": -1.0}, "drift must lie between 0 and 3"),
        ({"tasks": ("failures",)}, "unknown task 'failures'"),
    ],
)
def test_arguments_out_of_range_are_refused_in_one_sentence(arguments: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        synthetic.dataset(**{"n_samples": 10, "seed": 0} | arguments)


# Failure


def test_the_failure_oracle_sees_the_metrics_only_ranks_well_and_is_calibrated(story: synthetic.Telemetry) -> None:
    rows = failure_examples(story)
    truth, p = rows["label"].to_numpy(), rows["probability"].to_numpy()
    assert 0.05 < truth.mean() < 0.12
    assert 0.92 < auc(truth, p) < 0.985
    for part in np.array_split(np.argsort(p, kind="stable")[int(0.8 * len(p)) :], 5):
        assert truth[part].mean() == pytest.approx(p[part].mean(), abs=0.08)


def test_the_failure_oracle_does_not_change_when_the_future_does() -> None:
    story = synthetic.telemetry(600, seed=1)
    changed = story.telemetry.copy()
    cut = changed["timestamp"].min() + 800 * HOUR
    metrics = list(synthetic.TELEMETRY_METRICS)
    changed.loc[changed["timestamp"] >= cut, metrics] = changed[metrics].iloc[0].to_numpy()
    before = story.oracle["timestamp"] < cut
    other = dataclasses.replace(story, telemetry=changed).oracle["probability"]
    np.testing.assert_array_equal(other[before], story.oracle.loc[before, "probability"])
    assert (other[~before] != story.oracle.loc[~before, "probability"]).mean() > 0.9


def test_the_failure_oracle_needs_the_metrics(story: synthetic.Telemetry) -> None:
    blind = story.telemetry.assign(**dict.fromkeys(synthetic.TELEMETRY_METRICS, np.float32(np.nan)))
    blind["request_rate"] = story.telemetry["request_rate"]
    rows = failure_examples(dataclasses.replace(story, telemetry=blind))
    assert auc(rows["label"].to_numpy(), rows["probability"].to_numpy()) < 0.62


def test_the_state_tells_more_than_the_metrics(story: synthetic.Telemetry) -> None:
    rows = failure_examples(story).merge(story.state_oracle, on=["resource_id", "timestamp"], suffixes=("", "_state"))
    truth = rows["label"].to_numpy()
    assert auc(truth, rows["probability_state"].to_numpy()) > auc(truth, rows["probability"].to_numpy())


def test_chance_of_an_incident_equals_a_simulation_of_the_chain() -> None:
    chain = failure_chain.episode_chain(1.0)
    last = int(np.flatnonzero((chain.kind == 1) & (chain.phase == failure_chain.PHASES - 1))[0])
    rng = np.random.default_rng(0)
    for start in (0, last):
        now, hit = np.full(40_000, start), np.zeros(40_000, dtype=bool)
        onset = np.r_[chain.onset[0], 1 - chain.onset[0].sum()]
        onset[0] += onset[-1]
        for _ in range(24):
            draw = rng.random((4, len(now)))
            hit |= draw[0] < chain.sudden
            recovers = draw[1] < chain.recovery[now]
            moves = ~recovers & (draw[2] < chain.step[now])
            hit |= moves & (draw[3] < chain.ripen[now])
            healthy = now == 0
            ended = recovers | (moves & (chain.phase[now] == failure_chain.PHASES))
            now = np.where(ended, 0, now + moves)
            now[healthy] = rng.choice(chain.size, int(healthy.sum()), p=onset[:-1])
        assert chain.probability(24)[start] == pytest.approx(hit.mean(), abs=4 * hit.std() / 200)


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


def test_kinds_that_training_never_saw_come_in_the_last_part_only(story: synthetic.Telemetry) -> None:
    incidents = story.incidents
    assert set(incidents["kind"]) == {"sudden", *failure_chain.KINDS}
    first = pd.Timestamp(failure_chain.TELEMETRY_START, tz="UTC")
    late = incidents["kind"].isin(failure_chain.LATE_KINDS)
    assert incidents.loc[late, "start"].min() > first + failure_chain.LATE_FROM * HOUR
    begin = story.telemetry.groupby("resource_id")["timestamp"].min()
    age = incidents["start"] - incidents["resource_id"].map(begin)
    assert (age[late] > 0.75 * failure_chain.TELEMETRY_HOURS * HOUR).all()
    assert late.sum() >= 5


def test_without_drift_no_late_kinds_come_and_levels_stay() -> None:
    calm = synthetic.telemetry(3000, seed=1, drift=0.0)
    assert not calm.incidents["kind"].isin(failure_chain.LATE_KINDS).any()

    def wander(story: synthetic.Telemetry) -> float:
        table = story.telemetry
        weekly = np.log(table["error_rate"]).groupby([table["resource_id"], table["timestamp"].dt.isocalendar().week])
        return float(weekly.median().groupby("resource_id").std().median())

    assert wander(synthetic.telemetry(3000, seed=1)) > 1.5 * wander(calm)


@pytest.mark.parametrize("kind", ["memory_leak", "worker_loss", "network_flapping"])
def test_silent_faults_do_not_move_the_response_time(story: synthetic.Telemetry, kind: str) -> None:
    answers = np.log(story.telemetry["response_time"])
    frame = story.telemetry.assign(
        late=answers, usual=answers.groupby(story.telemetry["resource_id"]).transform("median")
    )

    def gap(of: str) -> float:
        starts = story.incidents.loc[story.incidents["kind"] == of, ["resource_id", "start"]]
        hours = [starts.assign(timestamp=starts["start"] - k * HOUR) for k in range(1, 9)]
        rows = pd.concat(hours).merge(frame, on=["resource_id", "timestamp"])
        return float((rows["late"] - rows["usual"]).median())

    assert abs(gap(kind)) < 0.2
    assert gap("disk_saturation") > 0.8 and gap("dependency_loss") < -0.8


def test_no_single_feature_comes_near_the_oracle(story: synthetic.Telemetry) -> None:
    frame = story.telemetry.sort_values(["resource_id", "timestamp"])
    metrics = list(synthetic.TELEMETRY_METRICS)
    logs = np.log(frame[metrics])
    by = logs.groupby(frame["resource_id"])
    made = {"level": by.rolling(12).mean(), "spread": by.rolling(24, min_periods=12).std()}
    features = {name: part.reset_index(level=0, drop=True) for name, part in made.items()}
    features["gap"] = features["level"] - by.rolling(168, min_periods=24).median().reset_index(level=0, drop=True)
    features["slope"] = features["level"] - features["level"].groupby(frame["resource_id"]).shift(12)
    keys = failure_examples(story)
    oracle = auc(keys["label"].to_numpy(), keys["probability"].to_numpy())
    for table in features.values():
        rows = keys.merge(frame[["resource_id", "timestamp"]].join(table), on=["resource_id", "timestamp"])
        for metric in metrics:
            seen = rows.dropna(subset=[metric])
            area = auc(seen["label"].to_numpy(), seen[metric].to_numpy())
            assert max(area, 1 - area) < min(0.8, oracle - 0.15)


def test_slow_benign_trends_look_like_leaks_and_end_well(story: synthetic.Telemetry) -> None:
    code = 1 + len(failure_chain.KINDS) + failure_chain.BENIGN.index("cache_warm_up")
    inside = (story.chain.kind[story.state] == code) & (story.outage == 0)
    change = np.diff(inside.astype(int), axis=0)
    lengths = []
    for column in change.T:
        begins, ends = np.flatnonzero(column == 1), np.flatnonzero(column == -1)
        lengths += [ends[ends > b][0] - b for b in begins if (ends > b).any()]
    assert 30 < np.quantile(lengths, 0.2) and np.quantile(lengths, 0.9) < 110
    assert not (story.incidents["kind"] == "cache_warm_up").any()


def test_events_of_the_fleet_reach_many_resources_in_the_same_hour(story: synthetic.Telemetry) -> None:
    clock = (story.start - failure_chain.TELEMETRY_START) // np.timedelta64(1, "h")
    begun = (story.chain.kind[story.state] == failure_chain.FLEET_EVENT) & (story.chain.phase[story.state] == 1)
    hour, resource = np.nonzero(begun[1:] & ~begun[:-1])
    at = np.bincount(hour + 1 + clock[resource])
    assert (at > 0.2 * len(story.start)).sum() >= 5
    assert (at > 0).sum() <= failure_chain.FLEET_EVENTS


def test_hours_and_weekdays_tell_nothing_of_incidents(story: synthetic.Telemetry) -> None:
    starts = story.incidents["start"].dt
    for values, count in ((starts.hour, 24), (starts.dayofweek, 7)):
        share = np.bincount(values, minlength=count) / len(values)
        assert share.max() < 1 / count + 4 * math.sqrt(1 / count / len(values))


# Threat


def brute_force_posterior(row: dict[str, float]) -> np.ndarray:
    """Posterior from full, normalised densities: one tactic, intensity and scatter at a time."""
    eta = threat_tactics.locations(1.0)
    out = dict.fromkeys(synthetic.CLASSES, 0.0)
    scatter = ((1 - threat_tactics.WILD[0], 1.0), threat_tactics.WILD)
    for t, tactic in enumerate(threat_tactics.TACTICS):
        for k, weight in enumerate(threat_tactics.INTENSITY_WEIGHTS):
            for share, wild in scatter:
                density = synthetic.CLASSES[tactic.of] * tactic.weight * weight * share
                for j, (name, law) in enumerate(threat_tactics.LAWS.items()):
                    if name in row:
                        density *= law_density(name, law, row[name], eta[t, k, j], wild)
                out[tactic.of] += density
    found = np.array(list(out.values()))
    return np.asarray(found / found.sum())


def law_density(name: str, law: threat_tactics.Law, x: float, eta: float, wild: float) -> float:
    if law.family == "count":
        count, d, mean = x - (name == "unique_ips"), law.dispersion, math.exp(eta)
        logs = math.lgamma(count + d) - math.lgamma(d) - math.lgamma(count + 1)
        return math.exp(logs + d * math.log(d / (d + mean)) + count * math.log(mean / (d + mean)))
    z = math.log(x) if law.family == "lognormal" else math.log(x / (1 - x))
    sd = law.dispersion * math.hypot(wild, threat_tactics.STYLE)
    return math.exp(-((z - eta) ** 2) / (2 * sd * sd)) / (sd * math.sqrt(2 * math.pi))


def test_tactics_of_each_class_sum_to_one() -> None:
    for name in synthetic.CLASSES:
        assert sum(t.weight for t in threat_tactics.TACTICS if t.of == name) == pytest.approx(1)


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
        assert truth[near].mean() == pytest.approx(p[near].mean(), abs=0.06)


def test_many_failed_logins_from_many_addresses_are_an_attack() -> None:
    row = pd.DataFrame([{"failed_auth_count": 25, "request_rate": 1500, "unique_ips": 50}])
    posterior = synthetic.activity_posterior(row)
    assert posterior["normal"].to_numpy()[0] < 0.05
    assert list(posterior.columns)[int(posterior.to_numpy().argmax())] == "brute_force"


def test_which_attack_it_is_shows_in_how_two_features_go_together() -> None:
    rows = pd.DataFrame(
        {
            "failed_auth_count": 45.0,
            "request_rate": [400.0, 400.0, 10.0, 10.0],
            "geographic_entropy": [2.5, 0.3, 2.5, 0.3],
        }
    )
    label = synthetic.activity_posterior(rows).idxmax(axis=1).tolist()
    assert label == ["brute_force", "unauthorized_access", "unauthorized_access", "brute_force"]


def test_features_are_correlated_and_heavy_tailed_within_a_class(data: Dataset) -> None:
    normal = data.tables["activity"].query("threat_type == 'normal'")
    ranks = normal[["request_rate", "data_transfer_rate"]].dropna().rank().to_numpy()
    assert np.corrcoef(ranks.T)[0, 1] > 0.1
    rate = normal["request_rate"].dropna().to_numpy()
    assert np.quantile(rate, 0.999) > 8 * np.median(rate)


def test_a_campaign_has_one_class_and_a_style_of_its_own() -> None:
    frame, _ = synthetic.activity(8000, seed=0)
    assert (frame.groupby("group")["threat_type"].nunique() == 1).all()
    assert 300 < frame["group"].nunique() < 700
    attack = frame[frame["threat_type"] == "ddos_attack"]
    payload = np.log(attack["avg_payload_size"])
    within = payload.groupby(attack["group"]).std().median()
    assert within < 0.75 * payload.std()


# Capacity


def error(rows: pd.DataFrame, forecast: str) -> float:
    return float((rows["truth"] - rows[forecast]).abs().mean())


def test_usage_oracle_beats_the_last_value_by_far_and_the_state_tells_little_more() -> None:
    frame, oracle = synthetic.usage(4000, seed=0)
    for target in synthetic.USAGE_TARGETS:
        rows = capacity_examples(frame, oracle, target)
        assert error(rows, "oracle") < 0.75 * error(rows, "last")
        assert 0.85 * error(rows, "oracle") < error(rows, "knowing") < error(rows, "oracle")


def test_usage_oracle_does_not_change_when_the_future_does() -> None:
    frame, oracle = synthetic.usage(500, seed=0)
    keys = capacity_examples(frame, oracle, "cpu_usage")
    hour = int((keys["origin"].max() - frame["timestamp"].min()) / HOUR)
    values, orders = oracle.values.copy(), oracle.orders.copy()
    values[..., hour + 1 :], orders[..., hour + 1 :] = 1.0, 1.0
    other = dataclasses.replace(oracle, values=values, orders=orders)
    np.testing.assert_array_equal(other(keys), keys["oracle"])


def test_orders_reach_the_processor_a_day_later() -> None:
    frame, oracle = synthetic.usage(2000, seed=0)
    orders = np.log(frame["transaction_count"]).to_numpy().reshape(len(oracle.resources), -1)
    cpu = frame["cpu_usage"].to_numpy().reshape(orders.shape)

    def together(lag: int) -> float:
        pairs = [pd.Series(c[lag:]).corr(pd.Series(x[: len(x) - lag])) for c, x in zip(cpu, orders, strict=True)]
        return float(np.median(pairs))

    assert together(24) > together(0) + 0.05
    assert together(24) > together(72) + 0.05


def test_weekends_have_a_shape_of_their_own_and_storage_is_cleaned_up_on_monday() -> None:
    frame, _ = synthetic.usage(2000, seed=0)
    stamps = frame["timestamp"].dt
    weekend = stamps.dayofweek >= 5
    by = frame.groupby([frame["resource_id"], weekend])["cpu_usage"].mean().unstack()
    assert (by[False] - by[True]).median() > 3
    monday = frame[(stamps.dayofweek == 0) & (stamps.hour < 6)].groupby("resource_id")["storage_usage"].mean()
    sunday = frame[(stamps.dayofweek == 6) & (stamps.hour >= 18)].groupby("resource_id")["storage_usage"].mean()
    assert (sunday - monday).median() > 5


def test_drift_scales_the_shifts_of_the_level() -> None:
    calm, wild = (synthetic.usage(1000, seed=0, drift=drift)[1].latent[1] for drift in (0.0, 2.0))
    assert not calm.any()
    assert (np.diff(wild, axis=2) != 0).mean() == pytest.approx(2 / 1200, rel=0.3)


def test_usage_oracle_survives_pickling_and_refuses_unknown_keys() -> None:
    frame, oracle = synthetic.usage(100, seed=0)
    keys = capacity_examples(frame, oracle, "memory_usage")
    again = pickle.loads(pickle.dumps(oracle))
    np.testing.assert_array_equal(again(keys), keys["oracle"])
    with pytest.raises(UsageError, match="neither this resource nor this target"):
        oracle(keys.assign(resource_id="nowhere"))
    with pytest.raises(UsageError, match="outside the record"):
        oracle(keys.assign(step=10_000))


# Signal 0


def test_without_signal_the_failure_oracle_is_constant_and_metrics_are_no_help() -> None:
    story = synthetic.telemetry(4000, seed=0, signal=0.0)
    assert np.ptp(story.oracle["probability"]) < 1e-5
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
        assert error(rows, "oracle") > 0.99 * error(rows, "last")


def test_half_the_signal_lies_between() -> None:
    frame, posterior = synthetic.activity(5000, seed=0, signal=0.5)
    label = posterior.columns.to_numpy()[posterior.to_numpy().argmax(axis=1)].astype(str)
    assert 0.2 < macro_f1(frame["threat_type"].to_numpy().astype(str), label) < 0.85
    rows = failure_examples(synthetic.telemetry(4000, seed=0, signal=0.5))
    assert 0.6 < auc(rows["label"].to_numpy(), rows["probability"].to_numpy()) < 0.93
