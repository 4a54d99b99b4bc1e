"""How often test rows have been looked at: every further look makes a chosen figure a little more optimistic."""

from __future__ import annotations

from aiops_core.tracking.store import experiment_id, open_client

#: Tags of the experiment, followed by the task and what its test rows are known by.
PREFIX = "test_looks"


def count_look(task: str, test: str) -> int:
    """Count one more scoring of test rows in the store, and return how many there have been.

    Parameters
    ----------
    task : str
    test : str
        What the test rows are known by; see `aiops_core.data.seen.Seen`.
    """
    key = f"{PREFIX}.{task}.{test}"
    with open_client() as client:
        experiment = experiment_id(client)
        looks = int(client.get_experiment(experiment).tags.get(key, 0)) + 1
        client.set_experiment_tag(experiment, key, str(looks))
    return looks
