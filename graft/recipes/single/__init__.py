"""Experiments on one task: tuned, localized, grafted, and held against simpler explanations."""
