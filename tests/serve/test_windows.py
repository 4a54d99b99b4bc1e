"""The buffer of snapshots: when a window counts as filled, and what a snapshot that comes late may change."""

from __future__ import annotations

import numpy as np
import pytest

from serve_app.answers.windows import Windows

WINDOW, STEP = 24, 3600


def put(
    windows: Windows,
    value: float,
    timestamp: float | None = None,
    *,
    resource: str = "a",
    signature: tuple[object, ...] = ("cpu",),
) -> tuple[np.ndarray | None, int, float | None]:
    """Add a snapshot of one metric."""
    row = np.array([value], dtype=np.float32)
    return windows.append(resource, row, signature=signature, window=WINDOW, step=STEP, timestamp=timestamp)


def filled_at(hours: list[int]) -> tuple[np.ndarray | None, int]:
    """Return window and count after snapshots at the given hours, each with its hour as the value."""
    windows = Windows()
    for hour in hours:
        found, have, _ = put(windows, hour, hour * STEP)
    return found, have


@pytest.mark.parametrize(("snapshots", "filled"), [(8, False), (11, False), (12, True), (24, True)])
def test_a_window_is_filled_when_half_of_its_steps_have_a_snapshot(snapshots: int, filled: bool) -> None:
    hours = [0, *range(WINDOW - snapshots + 1, WINDOW)]
    window, have = filled_at(hours)
    assert have == snapshots
    assert (window is not None) is filled
    if window is not None:
        assert np.flatnonzero(~np.isnan(window[:, 0])).tolist() == hours
        assert window[hours, 0].tolist() == hours


def test_a_window_is_not_filled_before_it_reaches_back_all_its_steps() -> None:
    assert filled_at(list(range(WINDOW - 1)))[0] is None
    assert filled_at(list(range(WINDOW)))[0] is not None


def test_without_timestamps_every_snapshot_is_the_next_step_and_the_oldest_leaves() -> None:
    windows = Windows()
    answers = [put(windows, i) for i in range(WINDOW + 2)]
    assert [a[0] is None for a in answers] == [True] * (WINDOW - 1) + [False] * 3
    assert [a[1] for a in answers] == [*range(1, WINDOW + 1), WINDOW, WINDOW]
    assert answers[-1][2] is None
    window = answers[-1][0]
    assert window is not None and window.shape == (WINDOW, 1) and window.dtype == np.float32
    assert window[:, 0].tolist() == list(range(2, WINDOW + 2))


def full() -> Windows:
    """Return a buffer whose window is full: hours 100 to 123, the hour as the value."""
    windows = Windows()
    for hour in range(100, 100 + WINDOW):
        put(windows, hour, hour * STEP)
    return windows


def test_a_later_snapshot_replaces_one_of_the_same_step_and_an_earlier_one_does_not() -> None:
    windows = full()
    window, _, newest = put(windows, 7, 123 * STEP + 600)
    assert window is not None and window[-1, 0] == 7 and newest == 123 * STEP + 600
    window, have, newest = put(windows, 8, 123 * STEP + 300)
    assert window is not None and window[-1, 0] == 7
    assert (have, newest) == (WINDOW, 123 * STEP + 600)


def test_a_late_snapshot_fills_its_own_step_of_the_window() -> None:
    windows = Windows()
    for hour in (*range(100, 110), *range(111, 124)):
        put(windows, hour, hour * STEP)
    window, have, newest = put(windows, -1, 110 * STEP)
    assert window is not None
    assert (have, newest) == (WINDOW, 123 * STEP)
    assert window[:, 0].tolist() == [*range(100, 110), -1, *range(111, 124)]


def test_a_snapshot_from_before_the_window_is_dropped_and_the_window_does_not_reach_back_to_it() -> None:
    windows = Windows()
    for hour in range(104, 124):
        put(windows, hour, hour * STEP)
    window, have, newest = put(windows, -1, 99 * STEP)
    assert window is None
    assert (have, newest) == (20, 123 * STEP)
    # The oldest step of the window itself is late too, and belongs to it.
    window, have, _ = put(windows, -2, 100 * STEP)
    assert window is not None and have == 21 and window[0, 0] == -2


def test_after_a_silence_longer_than_the_window_it_starts_anew() -> None:
    windows = full()
    assert put(windows, 1, (123 + WINDOW) * STEP)[1] == 1
    windows = full()
    window, have, _ = put(windows, 1, (123 + WINDOW - 1) * STEP)
    # One old step is left: too few, though the window reaches back to it.
    assert window is None and have == 2


def test_after_a_silence_longer_than_the_window_it_must_reach_back_all_its_steps_again() -> None:
    windows = full()
    first = 123 + WINDOW + 1
    answers = [put(windows, hour, hour * STEP) for hour in range(first, first + WINDOW)]
    assert [window is not None for window, _, _ in answers] == [False] * (WINDOW - 1) + [True]


@pytest.mark.parametrize(
    ("signature", "timestamp"), [(("cpu", "memory"), 124.0 * STEP), (("cpu",), None)], ids=["features", "clock"]
)
def test_other_features_or_a_missing_timestamp_start_a_new_window(
    signature: tuple[object, ...], timestamp: float | None
) -> None:
    window, have, _ = put(full(), 1, timestamp, signature=signature)
    assert window is None and have == 1


def test_the_resource_not_heard_of_for_longest_is_forgotten_first() -> None:
    windows = Windows(max_resources=2)
    for resource in ("a", "b", "a", "c"):
        have = put(windows, 1, resource=resource)[1]
    assert len(windows) == 2 and have == 1
    assert put(windows, 1, resource="a")[1] == 3
    assert put(windows, 1, resource="b")[1] == 1
