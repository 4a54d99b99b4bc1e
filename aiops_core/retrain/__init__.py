"""Retraining: journal and feedback beside the original source, the same job and gate, a shadow instead of a promotion."""
