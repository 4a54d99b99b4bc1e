"""Calibration and thresholds corrected by feedback, without training: learned from earlier feedback, judged on later."""
