"""Accuracy, calibration and out-of-distribution behavior, with intervals."""
