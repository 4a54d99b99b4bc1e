"""Numbers in, verdicts out: metrics with intervals, and the gate. Knows no task."""
