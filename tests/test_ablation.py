"""What a derived feature brought: measured on validation rows, and said in the report."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from aiops_core.data.tables import Dataset
from aiops_core.study.ablation import MOST, derived_features, with_table
from aiops_core.study.model_card import model_card
from aiops_core.tasks import threat

LESS = threat.Effort(max_steps=1, trees_per_step=20, final_trees=20)


def dataset(derive: dict[str, str]) -> Dataset:
    """Return activity whose class is told by a ratio of two columns, over four decades of both."""
    rng = np.random.default_rng(1)
    n = 900
    attempts = np.exp(rng.uniform(0, 9, n))
    attack = rng.random(n) < 0.5
    share = np.where(attack, 0.5, 0.3) * np.exp(rng.normal(0, 0.15, n))
    frame = pd.DataFrame(
        {
            "attempts": attempts,
            "failed": attempts * share,
            "noise": rng.normal(size=n),
            "threat_type": np.where(attack, "brute_force", "normal"),
        }
    )
    return Dataset("own", "Own", "none", {"activity": frame}, {"threat": {"derive": derive}})


@pytest.mark.usefixtures("ray_cluster")
def test_an_ablation_tells_a_feature_that_decides_from_one_that_says_nothing() -> None:
    derive = {"share": "failed / attempts", "twice": "2 * noise", "never": "noise > 1000"}
    data = threat.prepare(dataset(derive), seed=1, effort=LESS)
    rows = derived_features(threat, dataset(derive), data, seed=1)
    assert [(row["feature"], row["expression"]) for row in rows] == [
        ("share", "failed / attempts"),
        ("twice", "2 * noise"),
        ("never", "left out: constant in training"),
    ]
    share, twice, never = rows
    assert share["gain"] == pytest.approx(share["with_all"] - share["without_it"]) and share["gain"] > 0.1
    assert abs(twice["gain"]) < share["gain"] / 3 and never["gain"] is None
    details = with_table({"tables": {"Other": []}}, rows, "macro_f1")
    (title,) = [name for name in details["tables"] if name != "Other"]
    assert title.startswith("Derived features: ") and "validation rows" in title and details["tables"][title] is rows


@pytest.mark.usefixtures("ray_cluster")
def test_at_most_five_features_are_left_out_in_turn_and_none_are_without_derived_ones() -> None:
    derive = {f"d{k}": f"failed / (attempts + {k})" for k in range(MOST + 1)}
    derive["d1"] = "d0 * 2"
    data = threat.prepare(dataset(derive), seed=1, effort=LESS)
    rows = derived_features(threat, dataset(derive), data, seed=1)
    assert [row["gain"] is None for row in rows] == [False] * MOST + [True]
    assert derived_features(threat, dataset({}), threat.prepare(dataset({}), seed=1, effort=LESS), seed=1) == []
    assert with_table({"x": 1}, [], "macro_f1") == {"x": 1}


def test_the_version_without_a_feature_is_split_as_the_data_were(monkeypatch: pytest.MonkeyPatch) -> None:
    found = dataset({"share": "failed / attempts"})
    activity = found.tables["activity"]
    campaign = activity["threat_type"] + (np.arange(len(activity)) % 6).astype(str)
    found = found.replaced(activity=activity.assign(group=campaign, split="train"))
    data = threat.prepare(found, seed=1, effort=LESS, protocol="resource")
    versions: list[threat.ThreatData] = []

    def noted(task: ModuleType, some: list[threat.ThreatData], *, seed: int) -> list[float]:
        versions.extend(some)
        return [0.5] * len(some)

    monkeypatch.setattr("aiops_core.search.default_scores", noted)
    derived_features(threat, found, data, seed=1)
    whole, without = versions
    assert not without.derived.names
    np.testing.assert_array_equal(without.part, whole.part)


def test_a_model_card_names_derived_features_with_their_expression() -> None:
    card = {
        "task": "threat", "model": "threat_detector", "kind": "random_forest", "features": [{"name": "failed"}],
        "derived": [{"name": "share", "expression": "failed / attempts"}],
    }  # fmt: skip
    assert "- **Derived feature**: share = `failed / attempts`" in model_card(card)
