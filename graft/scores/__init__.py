"""Scores of weights for localization and importance, one small file each, and the gradients that they take."""
