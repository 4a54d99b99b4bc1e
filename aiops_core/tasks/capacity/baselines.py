"""What a good engineer would try first: naive forecasts, the Theta method, a booster on scaled lags."""

from __future__ import annotations

import numpy as np

from aiops_core.tasks.capacity.booster import booster_forecasts
from aiops_core.tasks.capacity.data import CapacityData
from aiops_core.tasks.capacity.naive import best_season, plain_forecasts
from aiops_core.tasks.capacity.theta import theta_forecasts


def baselines(data: CapacityData, *, seed: int) -> dict[str, dict[str, np.ndarray]]:
    """Predict the test rows with every baseline.

    Simple ones have nothing fitted: ``last_value``, ``seasonal_naive`` and ``median_of_three``. Strong ones learn from
    the data: ``theta`` each series' own smoothing, ``scaled_booster`` everything before the first test origin. The
    season that they repeat is the best of the declared one, seven of them and the week, by validation error.
    """
    pairs = data.parts["test"]
    season = best_season(data)
    plain = plain_forecasts(data, pairs, season)
    strong = {"theta": theta_forecasts(data, pairs, season), "scaled_booster": booster_forecasts(data, seed=seed)}
    return {name: {"p50": forecast} for name, forecast in {**plain, **strong}.items()}
