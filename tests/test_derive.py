"""Domain features: expressions against pandas, their errors, and the graph that is served against numpy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pandas as pd
import pytest
from onnx import TensorProto, helper

from aiops_core.data import folder, overview
from aiops_core.data.derive import derived_of
from aiops_core.data.tables import Dataset
from aiops_core.derive import Derived
from aiops_core.derive.graph import prepend
from aiops_core.errors import UsageError

COLUMNS = ["a", "b", "c", "disk io (MB)"]


def frame(n: int = 240, seed: int = 0) -> pd.DataFrame:
    """Return four columns of three resources with gaps, zeros and values outside of domains."""
    rng = np.random.default_rng(seed)
    values = (rng.normal(size=(n, 4)) * 3).astype(np.float32)
    values[rng.random(values.shape) < 0.15] = np.nan
    values[rng.random(values.shape) < 0.1] = 0.0
    values[rng.random(values.shape) < 0.1] = -1.0
    return pd.DataFrame(values, columns=COLUMNS).assign(resource=np.repeat(["x", "y", "z"], n // 3))


def known(f: pd.DataFrame, result: pd.Series, *columns: str) -> pd.Series:
    return result.astype(float).where(f[list(columns)].notna().all(axis=1))


def read(expression: str, *, series: bool = True) -> Derived:
    return Derived.read({"d": expression}, COLUMNS, where="[failure.derive]", series=series)


def model(width: int, steps: int | None) -> bytes:
    """Return a graph that gives back its input, as a model would see it."""
    shape = [None, width] if steps is None else [None, steps, width]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("X", "Y")]
    graph = helper.make_graph([helper.make_node("Identity", ["X"], ["Y"])], "same", values[:1], values[1:])
    return bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    )


OPERATORS: list[tuple[str, Callable[[pd.DataFrame], pd.Series]]] = [
    ("a + b", lambda f: f.a + f.b),
    ("a - 2.5", lambda f: f.a - 2.5),
    ("-a * b", lambda f: -f.a * f.b),
    ("a / b", lambda f: (f.a / f.b).where(f.b != 0)),
    ("'disk io (MB)' / (abs(b) + 1)", lambda f: f["disk io (MB)"] / (f.b.abs() + 1)),
    ("a < b", lambda f: known(f, f.a < f.b, "a", "b")),
    ("a <= b", lambda f: known(f, f.a <= f.b, "a", "b")),
    ("a > 0", lambda f: known(f, f.a > 0, "a")),
    ("a >= 0", lambda f: known(f, f.a >= 0, "a")),
    ("a == 0", lambda f: known(f, f.a == 0, "a")),
    ("a != -1", lambda f: known(f, f.a != -1, "a")),
    ("min(a, b, c)", lambda f: f[["a", "b", "c"]].min(axis=1, skipna=False)),
    ("max(a, 1)", lambda f: f.a.clip(lower=1)),
    ("abs(a)", lambda f: f.a.abs()),
    ("log1p(a)", lambda f: np.log1p(f.a.where(f.a > -1))),
    ("sqrt(a)", lambda f: np.sqrt(f.a.where(f.a >= 0))),
    ("clip(a, -1.5, +2)", lambda f: f.a.clip(-1.5, 2)),
]
SERIES: list[tuple[str, Callable[[pd.DataFrame], pd.Series]]] = [
    ("lag(a, 3)", lambda f: f.groupby("resource").a.shift(3)),
    ("diff(a)", lambda f: f.groupby("resource").a.diff()),
    ("diff(a, k=2)", lambda f: f.groupby("resource").a.diff(2)),
    (
        "rolling_mean(a, 4)",
        lambda f: f.groupby("resource").a.rolling(4, min_periods=1).mean().reset_index(drop=True),
    ),
    (
        "a - rolling_mean(lag(a, 1), 6)",
        lambda f: (
            f.a
            - f.assign(s=f.groupby("resource").a.shift(1))
            .groupby("resource")
            .s.rolling(6, min_periods=1)
            .mean()
            .reset_index(drop=True)
        ),
    ),
]


@pytest.mark.parametrize(("expression", "wanted"), OPERATORS + SERIES, ids=[e for e, _ in OPERATORS + SERIES])
def test_an_operator_gives_what_pandas_gives(expression: str, wanted: Callable[[pd.DataFrame], pd.Series]) -> None:
    f = frame()
    starts = np.repeat([0, 80, 160], 80)
    found = read(expression).of_grid(f[COLUMNS].to_numpy(), COLUMNS, starts)[:, 0]
    expected = wanted(f.astype(dict.fromkeys(COLUMNS, np.float64))).to_numpy()
    assert np.isnan(expected).any() and np.isfinite(expected).any()
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def random_expression(rng: np.random.Generator, depth: int, series: bool) -> str:
    kind = rng.integers(0, 12 if series else 9) if depth else rng.integers(0, 2)

    def inner() -> str:
        return random_expression(rng, depth - 1, series)

    if kind == 0:
        return f"{rng.normal():.2f}"
    if kind <= 2:
        return str(rng.choice(["a", "b", "c", "'disk io (MB)'"]))
    return [
        lambda: f"({inner()} {rng.choice(['+', '-', '*', '/'])} {inner()})",
        lambda: f"({inner()} {rng.choice(['<', '<=', '>', '>=', '==', '!='])} {inner()})",
        lambda: f"{rng.choice(['min', 'max'])}({inner()}, {inner()}, {inner()})",
        lambda: f"{rng.choice(['abs', 'log1p', 'sqrt'])}({inner()})",
        lambda: f"clip({inner()}, -1.5, 2)",
        lambda: f"-{inner()}",
        lambda: f"lag({inner()} + a, {rng.integers(1, 4)})",
        lambda: f"diff(b * {inner()})",
        lambda: f"rolling_mean({inner()} + c, {rng.integers(1, 6)})",
    ][kind - 3]()


@pytest.mark.parametrize("series", [True, False])
def test_the_graph_gives_what_numpy_gives_for_random_expressions(series: bool) -> None:
    rng = np.random.default_rng(1)
    checked = 0
    for trial in range(120):
        written = {f"d{i}": f"{random_expression(rng, 3, series)} + a * 0" for i in range(3)}
        derived = Derived.read(written, COLUMNS, where="[x]", series=series)
        assert Derived.read(derived.over_columns(), COLUMNS, where="[x]", series=series).nodes == derived.nodes
        raw = frame(240, trial)[COLUMNS].to_numpy()
        if series:
            steps = 6 + derived.reach
            raw = raw[: len(raw) // steps * steps].reshape(-1, steps, 4)
            wanted = derived.of_windows(raw, COLUMNS)
            # Rows of a whole table: what lies before a window in the same series is known to both.
            starts = np.repeat(np.arange(len(raw)) * steps, steps)
            grid = derived.of_grid(raw.reshape(-1, 4), COLUMNS, starts).reshape(len(raw), steps, -1)
            np.testing.assert_array_equal(grid[:, derived.reach :], wanted[:, :, 4:])
        else:
            wanted = np.concatenate([raw, derived.of_rows(raw, COLUMNS)], axis=1)
        graph = prepend(model(7, 6 if series else None), derived, COLUMNS, "X")
        (found,) = ort.InferenceSession(graph).run(None, {"X": raw})
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6, err_msg=str(written))
        checked += int(np.isfinite(found).sum())
    assert checked > 10_000


def test_a_feature_may_use_those_before_it_and_its_columns_are_known() -> None:
    written = {"share": "a / (a + b)", "jump": "diff(share, 2) > 0.5", "wide": "max(c, rolling_mean(jump, 4))"}
    derived = Derived.read(written, COLUMNS, where="[x]", series=True)
    assert derived.columns == ["a", "b", "c"] and derived.reach == 2 + 3
    assert derived.written[0] == "a / (a + b)" and "share" not in derived.written[1]
    f = frame().astype(dict.fromkeys(COLUMNS, np.float64))
    share = (f.a / (f.a + f.b)).where(f.a + f.b != 0)
    change = share.groupby(f.resource).diff(2)
    found = derived.of_grid(f[COLUMNS].to_numpy(), COLUMNS, np.repeat([0, 80, 160], 80))
    np.testing.assert_allclose(found[:, 1], (change > 0.5).astype(float).where(change.notna()), atol=1e-6)
    alone = derived.kept(["wide"])
    np.testing.assert_array_equal(
        alone.of_grid(f[COLUMNS].to_numpy(), COLUMNS, np.repeat([0, 80, 160], 80)), found[:, 2:]
    )


def test_what_single_precision_cannot_hold_is_missing() -> None:
    raw = np.array([[3e38, 3e38, 1, 1]], dtype=np.float32)
    for expression in ("a * b", "a + b", "rolling_mean(a * 10, 2)"):
        assert np.isnan(read(expression).of_grid(raw, COLUMNS, np.zeros(1, int))).all()


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("cpu + 1", "names 'cpu', which is neither a column nor a feature before it"),
        ("'disk io (GB)' / 2", "did you mean 'disk io \\(MB\\)'"),
        ("mox(a, b)", "calls mox\\(\\), which is no known function; did you mean max\\(\\)"),
        ("abs(a, b)", "gives abs\\(\\) 2 arguments; it takes 1"),
        ("min(a)", "gives min\\(\\) 1 arguments; it takes 2 to 16"),
        ("lag(a)", "gives lag\\(\\) 1 arguments; it takes 2"),
        ("lag(a, 1.5)", "calls lag\\(\\) with '1.5' steps; it takes a whole number from 1"),
        ("lag(a, -1)", "calls lag\\(\\) with '-1' steps; it takes a whole number from 1"),
        ("lag(a, b)", "calls lag\\(\\) with 'b' steps"),
        ("lag(a, 900) + lag(lag(b, 600), 600)", "looks 1200 steps back, more than 1000"),
        ("rolling_mean(3, 2)", "calls rolling_mean\\(\\) without a column"),
        ("clip(a, b, 1)", "calls clip\\(\\) with other bounds than two numbers"),
        ("clip(a, 2, 1)", "calls clip\\(\\) with other bounds than two numbers"),
        ("1 + 2", "holds no column"),
        ("a +", "is no expression \\(invalid syntax\\)"),
        ("", "must be an expression in quotes"),
        ("a ** 2", "holds 'a \\*\\* 2'; known are numbers, columns"),
        ("a < b < c", "compares more than two values"),
        ("a > 1 and b > 1", "write a \\* b for 'and'"),
        ("a.__class__", "holds 'a.__class__'"),
        ("__import__('os').system('ls')", "holds .*; known are"),
        ("abs(*a)", "arguments of abs\\(\\) are given by their place"),
        ("a + 1e999", "holds a number that is too large"),
        ("a + True", "holds 'True'"),
        ("a" + " + a" * 300, "has 601 operations, more than 500"),
        ("a" + " + a" * 200, "is nested 201 deep, more than 150"),
        ("(" * 300 + "a" + ")" * 300, "is no expression"),
        ("later + 1", "names 'later', which is not defined before it"),
        ("d + 1", "names 'd', which is not defined before it"),
    ],
)
def test_an_expression_that_cannot_be_read_is_refused_in_one_sentence(expression: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as refusal:
        Derived.read({"d": expression, "later": "a"}, COLUMNS, where="[failure.derive]", series=True)
    assert str(refusal.value).startswith("[failure.derive] d = ") and "\n" not in str(refusal.value)


def test_rows_without_order_have_no_lag_and_names_are_not_used_twice() -> None:
    with pytest.raises(UsageError, match="calls lag\\(\\), but the rows of this table do not follow each other"):
        read("lag(a, 1)", series=False)
    with pytest.raises(UsageError, match="a = 'b': has the name of a column; give it another"):
        Derived.read({"a": "b"}, COLUMNS, where="[x]", series=True)


# Folders -------------------------------------------------------------------------------------------------------------


def activity() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "failed": rng.integers(0, 9, 40),
            "all": rng.integers(9, 20, 40),
            "service": rng.choice(["ssh", "http"], 40),
            "threat_type": ["normal", "scan"] * 20,
        }
    )


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ('share = "failed / al"', "dataset.toml: \\[threat.derive\\] share = 'failed / al': names 'al'"),
        ('share = "failed / service"', "names 'service', which holds categories, not numbers"),
        ('share = "failed * threat_type"', "names 'threat_type', which is no feature of activity"),
        ('threat_type = "failed"', "has the name of a column"),
        ("share = 3", "share = 3: must be an expression in quotes"),
        ('before = "lag(failed, 1)"', "do not follow each other in time"),
    ],
)
def test_validating_a_folder_reads_its_expressions(tmp_path: Path, section: str, words: str) -> None:
    activity().to_csv(tmp_path / "activity.csv", index=False)
    (tmp_path / "dataset.toml").write_text(f"[threat.derive]\n{section}\n")
    with pytest.raises(UsageError, match=words):
        folder.load_folder(tmp_path)


def test_a_folder_with_derived_features_is_loaded_saved_and_loaded_again(tmp_path: Path) -> None:
    activity().to_csv(tmp_path / "activity.csv", index=False)
    (tmp_path / "dataset.toml").write_text('[threat.derive]\nshare = "failed / all"\n"high share" = "share > 0.5"\n')
    loaded = folder.load_folder(tmp_path)
    derived = derived_of(loaded, "threat")
    assert derived.names == ("share", "high share") and derived.columns == ["failed", "all"]
    assert "    derived: high share = share > 0.5" in overview.lines(loaded)
    again = folder.load_folder(folder.save_folder(loaded, tmp_path / "again"))
    assert again.config == loaded.config and again.digest("threat") == loaded.digest("threat")
    config: dict[str, Any] = {"threat": {**loaded.config["threat"], "derive": {"share": "failed / (all + 1)"}}}
    other = Dataset("x", "x", "x", loaded.tables, config)
    assert other.digest("threat") != loaded.digest("threat")
