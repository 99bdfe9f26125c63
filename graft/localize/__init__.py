"""Localization of a skill in the weights: methods, exact budgets, selection, diagnosis."""
